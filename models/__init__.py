"""Model definitions by name. A new one is a file here, an entry in `MODELS` and a config in `ModelConfig`."""

from typing import Annotated, Any

from flax import linen, nnx
from pydantic import Discriminator, Tag

from trialbook.models import cnn, mlp, plugin, resnet, transformer, vit, wide_resnet
from trialbook.models.call_modes import Call
from trialbook.models.cnn import Cnn, CnnConfig
from trialbook.models.mlp import Mlp, MlpConfig
from trialbook.models.plugin import PluginConfig
from trialbook.models.resnet import ResNet, ResNetConfig
from trialbook.models.transformer import Transformer, TransformerConfig
from trialbook.models.vit import Vit, VitConfig
from trialbook.models.wide_resnet import WideResNet, WideResNetConfig
from trialbook.settings import kind_tag

# Name -> config class, module class; a module is made as Module(config, input_shape=, num_outputs=, rngs=).
MODELS: dict[str, tuple[type, type]] = {
  "mlp": (MlpConfig, Mlp),
  "cnn": (CnnConfig, Cnn),
  "resnet": (ResNetConfig, ResNet),
  "wide_resnet": (WideResNetConfig, WideResNet),
  "vit": (VitConfig, Vit),
  "transformer": (TransformerConfig, Transformer),
}


ModelConfig = Annotated[
  Annotated[MlpConfig, Tag("mlp")]
  | Annotated[CnnConfig, Tag("cnn")]
  | Annotated[ResNetConfig, Tag("resnet")]
  | Annotated[WideResNetConfig, Tag("wide_resnet")]
  | Annotated[VitConfig, Tag("vit")]
  | Annotated[TransformerConfig, Tag("transformer")]
  | Annotated[PluginConfig, Tag("module:Class")],
  Discriminator(kind_tag),
]


def problems(config: ModelConfig) -> list[str]:
  """Return the problems of settings that are each valid, found before anything runs; empty if there are none."""
  match config:
    case PluginConfig():
      return plugin.problems(config)
    case MlpConfig():
      return mlp.problems(config)
    case CnnConfig():
      return cnn.problems(config)
    case ResNetConfig():
      return resnet.problems(config)
    case WideResNetConfig():
      return wide_resnet.problems(config)
    case VitConfig():
      return vit.problems(config)
    case TransformerConfig():
      return transformer.problems(config)


def build(
  config: ModelConfig,
  *,
  input_shape: tuple[int, ...] | None,
  num_outputs: int | None,
  rngs: nnx.Rngs,
  example: Call | None = None,
) -> nnx.Module:
  """Make the model that a config names, with float32 parameters; meant for `jax.jit` or `nnx.eval_shape`.

  It is called `model(inputs, train=bool) -> outputs` with float inputs [batch, *input_shape] and outputs
  [batch, num_outputs], and computes in the dtype that its inputs and parameters share. A transformer's inputs
  are integers, tokens [batch, length], its outputs [batch, length, num_outputs], and it computes in its
  parameters' dtype. The `Hyperparameter`s are to be filled first. Nothing here reads the value of a traced
  setting, only whether it is None.

  Args:
    config: the model's settings.
    input_shape: of one example; None if a plug-in is called with something else than one array.
    num_outputs: classes, regression targets, or tokens of the vocabulary; None if the task does not say.
    rngs: the streams `params` and `dropout`.
    example: the call for one example; only a Linen module, which is made from it, needs it.

  Raises:
    ValueError: the model does not accept inputs of that shape, or `problems(config)` is not empty.
  """
  shapes = {"input_shape": input_shape, "num_outputs": num_outputs}
  if isinstance(config, PluginConfig):
    return plugin.build(config, **shapes, rngs=rngs, example=example)
  if found := problems(config):
    raise ValueError("\n".join(found))
  if input_shape is None or num_outputs is None:
    missing = "calls it with something else" if input_shape is None else "has no num_outputs"
    raise ValueError(f"{config.name} maps one array to one array, but the task {missing}; name a model of your own")
  _, module = MODELS[config.name]
  return module(config, **shapes, rngs=rngs)


def module_class(config: ModelConfig) -> Any:
  """Return the class of the model that a config names, or the function that makes it; a plug-in's is imported.

  Raises:
    PluginError: a plug-in cannot be loaded.
  """
  if not isinstance(config, PluginConfig):
    return MODELS[config.name][1]
  found = plugin.load(config)
  return type(found) if isinstance(found, linen.Module) else found


if __name__ != "trialbook.models":
  # A second copy of every module would be loaded otherwise.
  raise ImportError(f"{__name__} is imported as trialbook.models")
