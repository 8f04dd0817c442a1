"""Marks that several of the learner's tests carry."""

import pytest

# transformers 5.19 does not close the files of additional_chat_templates.
UNCLOSED = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",
    "ignore:.*additional_chat_templates:pytest.PytestUnraisableExceptionWarning",
)
