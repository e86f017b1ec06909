"""Servers that a configuration needs and that nobody named yet: said by their flags, before any work. Presets for
servers have placeholders in place of addresses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from inference.images_api.config import ImagesApiConfig, is_unnamed
from inference.images_api.corrector import ImagesApiCorrectorConfig
from inference.search_tools import SearchToolsConfig
from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError


def require_servers(config: Any, flags: str, vlm: VlmConfig | None = None) -> None:
    """InputError for the first server without an address. config: what is used of a run's. flags: what its flags begin
    with ("--generate"). vlm: the run's own, whose flags are its."""
    if isinstance(config, VlmConfig):
        if config.endpoint_model and is_unnamed(config.base_url):
            place = "--vlm" if config == vlm else flags
            raise InputError(
                f"no address of the server with {config.endpoint_model} is named",
                field=f"{place}.base-url",
                expected="the address that it is reached at, such as http://host:8000/v1; its model's name is "
                f"{place}.endpoint-model",
            )
        return
    if isinstance(config, ImagesApiCorrectorConfig):
        return  # of which the tools that it belongs to know more
    if isinstance(config, ImagesApiConfig):
        config.require_server(flags)
        return
    for field in fields(config):
        value = getattr(config, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if is_dataclass(one):
                name = "" if _goes_unnamed(config, field.name) else field.name.replace("_", "-")
                require_servers(one, f"{flags}{'.' if name and flags != '--' else ''}{name}", vlm)
    if isinstance(config, SearchToolsConfig) and config.corrector is not None and config.corrector.images_api:
        corrector = config.corrector.images_api.reached(config.generator.chosen)
        corrector.require_server(f"{flags}.corrector.images-api")


def _goes_unnamed(config: Any, name: str) -> bool:
    """Whether a field's flags do without its name."""
    hint = get_type_hints(type(config), include_extras=True)[name]
    return any(getattr(extra, "name", None) == "" for extra in getattr(hint, "__metadata__", ()))
