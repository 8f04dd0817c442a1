"""The last decoder layer computes only what is asked of it: the tokens that predict a response.

Its attention needs every token's key and value; its MLP and the final norm work token by token, and
for a prompt they are never read. A prompt is about 96 % of a student's tokens.
Axes: L tokens of the row, M tokens that are asked for, D hidden size.
"""

from typing import Any

from torch import Tensor, nn

from common.families import family_named
from common.forwards import with_forward
from common.image_text_model import ImageTextModel
from learner.model.layout import Layout

_PARTS = ("input_layernorm", "post_attention_layernorm", "mlp")
_NORMS_BEHIND = ("post_self_attn_layernorm", "post_mlp_layernorm")  # `Family.has_norms_behind`


class NarrowLayer:
    """Marks a layer that gives [1, M, D] where a layout asks for M tokens."""


def narrow_last_layer(model: ImageTextModel) -> None:
    """Make the last decoder layer a `NarrowLayer`.

    Unless it is of another form, or the vision tower's features are added behind it.
    """
    layers = model.base_model.language_model.layers
    depths = getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ()
    last = layers[-1]
    has_norms_behind = family_named(model.config.model_type).has_norms_behind
    parts = (*_PARTS, *(_NORMS_BEHIND if has_norms_behind else ()))
    is_plain = all(hasattr(last, part) for part in parts) and hasattr(last.mlp, "down_proj")
    if not is_plain or len(depths) >= len(layers):
        return
    last.__class__ = _narrowing(type(last), has_norms_behind)


def _narrowing(plain: type[nn.Module], has_norms_behind: bool) -> type[nn.Module]:
    def forward(
        self: Any, hidden_states: Tensor, *arguments: Any, layout: Layout | None = None, **rest: Any
    ) -> Tensor:
        if layout is None or layout.asked_M is None:
            output: Tensor = plain.forward(self, hidden_states, *arguments, layout=layout, **rest)
            return output
        normed_1LD = self.input_layernorm(hidden_states)
        if hasattr(self, "linear_attn"):
            mixed_1LD = self.linear_attn(normed_1LD, layout=layout)
        else:
            mixed_1LD, _ = self.self_attn(hidden_states=normed_1LD, layout=layout, **rest)
        mixed_1MD = mixed_1LD.index_select(1, layout.asked_M)
        if has_norms_behind:
            mixed_1MD = self.post_self_attn_layernorm(mixed_1MD)
        hidden_1MD = hidden_states.index_select(1, layout.asked_M) + mixed_1MD
        output_1MD = self.mlp(self.post_attention_layernorm(hidden_1MD))
        if has_norms_behind:
            output_1MD = self.post_mlp_layernorm(output_1MD)
        narrowed: Tensor = hidden_1MD + output_1MD
        return narrowed

    return with_forward(plain, forward, NarrowLayer)
