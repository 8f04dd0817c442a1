"""How a sample is shown to the model: one registered view a file, in `common.views.kinds`."""
