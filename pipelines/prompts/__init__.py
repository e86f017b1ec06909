"""Where prompts come from: vocabularies, rule composition, benchmark overlap, prompt files, brainstorming."""
