"""Names that public weights of these models have, as substitutions; see `trialbook.trainer.checkpoints.renaming`."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from trialbook.models.resnet import ResNetConfig
from trialbook.models.transformer import TransformerConfig
from trialbook.models.vit import VitConfig

Naming = Literal["own", "torchvision", "timm", "huggingface"]


class PublicNames(NamedTuple):
  """How the weights of a library become those of a model here.

  Attributes:
    names: patterns and replacements, applied in this order.
    axes: the order of axes; "torch" has outputs first.
    reshape: patterns of the parameters here that have the same numbers in another shape.
  """

  names: tuple[tuple[str, str], ...]
  axes: Literal["flax", "torch"] = "torch"
  reshape: tuple[str, ...] = ()


def public_names(naming: Naming, config: Any) -> PublicNames | None:
  """Return the names that a library gives to the arrays of a model; None if it has no such model."""
  known = _KNOWN.get((naming, type(config)))
  return None if known is None else known(config)


def libraries(config: Any) -> list[str]:
  """Return the libraries that have a model as a config describes it."""
  return [naming for naming, kind in _KNOWN if kind is type(config)]


_LEAVES = (
  (r"norm\.weight(?=\[|$)", "norm/scale"),
  (r"\.weight(?=\[|$)", "/kernel"),
  (r"\.bias(?=\[|$)", "/bias"),
)
_STATISTICS = (
  (r"^.*\.num_batches_tracked$", ""),
  (r"norm\.running_(mean|var)$", r"norm/\1"),
)


def _blocks(config: ResNetConfig, pattern: str) -> list[tuple[str, str]]:
  """Return substitutions that count the blocks of all stages; the pattern has a stage, from 0, and a block in it."""
  places = [(stage, index) for stage, size in enumerate(config.stage_sizes) for index in range(size)]
  return [(pattern.format(stage, stage + 1, index), f"blocks/{block}/") for block, (stage, index) in enumerate(places)]


def _torchvision_resnet(config: ResNetConfig) -> PublicNames:
  last = 2 if config.block == "basic" else 3
  hidden = [
    (rf"(?<=/)(conv|bn){number}\.", rf"{'last' if number == last else f'hidden/{number - 1}'}/\1.")
    for number in range(1, last + 1)
  ]
  names = [
    *_blocks(config, r"^layer{1}\.{2}\."),
    (r"^(conv|bn)1\.", r"stem/\1."),
    *hidden,
    (r"downsample\.0\.", "shortcut/conv."),
    (r"downsample\.1\.", "shortcut/norm."),
    (r"(?<=/)bn\.", "norm."),
    (r"^fc\.", "output."),
    *_STATISTICS,
    *_LEAVES,
  ]
  return PublicNames(tuple(names))


def _huggingface_resnet(config: ResNetConfig) -> PublicNames:
  last = 1 if config.block == "basic" else 2
  names = [
    (r"^resnet\.", ""),
    *_blocks(config, r"^encoder\.stages\.{0}\.layers\.{2}\."),
    (r"^embedder\.embedder\.", "stem/"),
    (rf"(?<=/)layer\.{last}\.", "last/"),
    (r"(?<=/)layer\.(\d)\.", r"hidden/\1/"),
    (r"(?<=/)shortcut\.", "shortcut/"),
    (r"(?<=/)convolution\.", "conv."),
    (r"(?<=/)normalization\.", "norm."),
    (r"^classifier\.1\.", "output."),
    *_STATISTICS,
    *_LEAVES,
  ]
  return PublicNames(tuple(names))


_OF_VIT = ("embedding/kernel", "token", "positions")
"""Patches as a convolution, and vectors with an axis of examples of size 1."""


def _timm_vit(_: VitConfig) -> PublicNames:
  names = (
    (r"^cls_token$", "token"),
    (r"^pos_embed$", "positions"),
    (r"^patch_embed\.proj\.", "embedding."),
    (r"^head\.", "output."),
    (r"^blocks\.(\d+)\.(.*)$", r"blocks/layer/\2[\1]"),
    (r"(?<=/)norm1\.", "attention_norm."),
    (r"(?<=/)attn\.qkv\.", "attention/{query,key,value}."),
    (r"(?<=/)attn\.proj\.", "attention/output."),
    (r"(?<=/)norm2\.", "feed_forward_norm."),
    (r"(?<=/)mlp\.fc1\.", "hidden."),
    (r"(?<=/)mlp\.fc2\.", "output."),
    *_LEAVES,
  )
  return PublicNames(names, reshape=_OF_VIT)


def _torchvision_vit(_: VitConfig) -> PublicNames:
  names = (
    (r"^class_token$", "token"),
    (r"^encoder\.pos_embedding$", "positions"),
    (r"^conv_proj\.", "embedding."),
    (r"^heads\.head\.", "output."),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.(.*)$", r"blocks/layer/\2[\1]"),
    (r"(?<=/)ln_1\.", "attention_norm."),
    (r"(?<=/)self_attention\.in_proj_", "attention/{query,key,value}."),
    (r"(?<=/)self_attention\.out_proj\.", "attention/output."),
    (r"(?<=/)ln_2\.", "feed_forward_norm."),
    (r"(?<=/)mlp\.(0|linear_1)\.", "hidden."),
    (r"(?<=/)mlp\.(3|linear_2)\.", "output."),
    *_LEAVES,
  )
  return PublicNames(names, reshape=_OF_VIT)


def _huggingface_vit(_: VitConfig) -> PublicNames:
  names = (
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token$", "token"),
    (r"^embeddings\.position_embeddings$", "positions"),
    (r"^embeddings\.patch_embeddings\.projection\.", "embedding."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "output."),
    # Names of files, and those that modules have from transformers 5 on.
    (r"^(?:encoder\.layer|layers)\.(\d+)\.(.*)$", r"blocks/layer/\2[\1]"),
    (r"(?<=/)attention\.attention\.", "attention/"),
    (r"(?<=/)attention\.q_proj\.", "attention/query."),
    (r"(?<=/)attention\.k_proj\.", "attention/key."),
    (r"(?<=/)attention\.v_proj\.", "attention/value."),
    (r"(?<=/)attention\.(?:output\.dense|o_proj)\.", "attention/output."),
    (r"(?<=/)layernorm_before\.", "attention_norm."),
    (r"(?<=/)layernorm_after\.", "feed_forward_norm."),
    (r"(?<=/)(?:intermediate\.dense|mlp\.fc1)\.", "hidden."),
    (r"(?<=/)(?:output\.dense|mlp\.fc2)\.", "output."),
    *_LEAVES,
  )
  return PublicNames(names, reshape=_OF_VIT)


def _gpt2(_: TransformerConfig) -> PublicNames:
  names = (
    (r"^transformer\.", ""),
    (r"^lm_head\..*$", ""),
    (r"^h\.\d+\.attn\.(masked_)?bias$", ""),
    (r"^wte\.weight$", "embedding/table"),
    (r"^wpe\.weight$", "positions"),
    (r"^ln_f\.", "norm."),
    (r"^h\.(\d+)\.(.*)$", r"blocks/layer/\2[\1]"),
    (r"(?<=/)ln_1\.", "attention_norm."),
    (r"(?<=/)attn\.c_attn\.", "attention/{query,key,value}."),
    (r"(?<=/)attn\.c_proj\.", "attention/output."),
    (r"(?<=/)ln_2\.", "feed_forward_norm."),
    (r"(?<=/)mlp\.c_fc\.", "hidden."),
    (r"(?<=/)mlp\.c_proj\.", "output."),
    *_LEAVES,
  )
  # Its matrices are [inputs, outputs] as here.
  return PublicNames(names, axes="flax")


_KNOWN: Mapping[tuple[str, type], Callable[[Any], PublicNames]] = {
  ("torchvision", ResNetConfig): _torchvision_resnet,
  ("timm", ResNetConfig): _torchvision_resnet,
  ("huggingface", ResNetConfig): _huggingface_resnet,
  ("torchvision", VitConfig): _torchvision_vit,
  ("timm", VitConfig): _timm_vit,
  ("huggingface", VitConfig): _huggingface_vit,
  ("huggingface", TransformerConfig): _gpt2,
}
