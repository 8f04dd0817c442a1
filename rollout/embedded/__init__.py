"""A generation engine on plain transformers that serves SGLang's HTTP endpoints: `python -m`."""
