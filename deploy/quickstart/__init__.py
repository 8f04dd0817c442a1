"""The quickstart world: digits on coloured tags in photographs, and a model that reads them."""
