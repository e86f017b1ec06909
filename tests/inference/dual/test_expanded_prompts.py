"""Prompts in more words: what a model writes, without what stands around it, or nothing."""

from inference.dual.expanded_prompts import ATTEMPTS, expand
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from tests.support.chat_server import chat_server, says, text_of


def test_expanded_prompts_are_what_the_model_writes_and_none_where_it_writes_no_text():
    def answer(payload, number):
        text = text_of(payload)
        if "a torch" in text:
            return says("I'm sorry, I can't help with that.")
        return says("Here is the prompt:\n**a lamp,\n unlit**" if "a lamp" in text else " ")

    with chat_server(answer) as server:
        vlm = EndpointVlm(EndpointConfig(server.base_url, "m", max_retries=0))
        assert expand(vlm, ["a lamp", "a pen", "a torch"], "expand") == ["a lamp, unlit", None, None]
        assert len(server.payloads) == 1 + 2 * ATTEMPTS
        assert expand(vlm, [], "expand") == []
