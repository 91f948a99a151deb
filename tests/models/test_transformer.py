import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference
from flax import nnx

from trialbook import models
from trialbook.models.transformer import Transformer, TransformerConfig

VOCABULARY, LENGTH = 7, 6
TOKENS = jnp.asarray(np.random.default_rng(0).integers(VOCABULARY, size=(2, LENGTH)), jnp.int32)
TINY = {"width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2.0}


def build(length=LENGTH, **settings):
  config = TransformerConfig.model_validate(TINY | settings)
  return Transformer(config, input_shape=(length,), num_outputs=VOCABULARY, rngs=nnx.Rngs(0)), config


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"positions": "learned", "tie_embeddings": False, "activation": "swiglu"},
    {"norm_placement": "post", "activation": "relu", "depth": 3, "remat": "full"},
  ],
  ids=["default", "learned-untied-swiglu", "post-relu-remat"],
)
def test_logits_are_those_of_numpy(settings):
  model, config = build(**settings)
  params = reference.parameters(model)
  table = params["embedding"]["table"]
  x = table[np.asarray(TOKENS)] + (params["positions"] if config.positions == "learned" else 0)
  x = reference.blocks(params, x, config, causal=True, rotary=config.positions == "rotary")
  expected = x @ table.T if config.tie_embeddings else reference.linear(params["output"], x)
  np.testing.assert_allclose(model(TOKENS, train=True), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_no_logits_depend_on_a_later_token(positions):
  model, _ = build(positions=positions)
  reference.parameters(model)
  logits = model(TOKENS, train=False)
  for position in range(LENGTH):
    other = model(TOKENS.at[:, position].set((TOKENS[:, position] + 1) % VOCABULARY), train=False)
    np.testing.assert_array_equal(other[:, :position], logits[:, :position])
    assert (other[:, position:] != logits[:, position:]).any(-1).all()


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_shorter_inputs_give_the_first_logits(positions):
  model, _ = build(positions=positions)
  np.testing.assert_allclose(model(TOKENS[:, :3], train=False), model(TOKENS, train=False)[:, :3], atol=1e-6)


@pytest.mark.slow
def test_parameter_counts_are_those_of_the_formula():
  def count(**settings):
    model = nnx.eval_shape(lambda: build(**settings)[0])
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

  # GPT-2 small (Radford et al. 2019), as it was published.
  gpt2 = {"width": 768, "depth": 12, "heads": 12, "mlp_ratio": 4.0, "positions": "learned"}
  assert count(length=1024, **gpt2) == 124_439_808 - (50_257 - VOCABULARY) * 768
  assert count(length=1024, **gpt2, tie_embeddings=False) == count(length=1024, **gpt2) + VOCABULARY * 768
  assert count(length=1024, **gpt2 | {"positions": "rotary"}) == count(length=1024, **gpt2) - 1024 * 768


def test_a_token_that_is_not_in_the_vocabulary_shows_as_nan():
  model, _ = build()
  for wrong in (-1, VOCABULARY):
    finite = np.isfinite(np.asarray(model(TOKENS.at[1, 3].set(wrong), train=False)))
    assert finite[0].all()
    assert not finite[1, 3:].any()


@pytest.mark.slow
def test_an_untrained_model_is_undecided():
  config = TransformerConfig(width=64, depth=4, heads=4)
  model = Transformer(config, input_shape=(16,), num_outputs=50, rngs=nnx.Rngs(0))
  tokens = jnp.asarray(np.random.default_rng(1).integers(50, size=(8, 17)), jnp.int32)
  log_probability = jax.nn.log_softmax(model(tokens[:, :-1], train=False))
  loss = -jnp.take_along_axis(log_probability, tokens[:, 1:, None], axis=-1).mean()
  assert abs(loss - np.log(50)) < 0.2


@pytest.mark.parametrize(
  ("shape", "inputs", "message"),
  [
    ((8, 8, 1), None, r"\(length,\).*\(8, 8, 1\)"),
    ((LENGTH,), np.zeros((2, LENGTH), np.float32), "must be integers, but are float32"),
    ((3,), TOKENS, "6 tokens, but there are 3 learned positions"),
  ],
)
def test_inputs_that_are_not_tokens_are_refused(shape, inputs, message):
  def run():
    config = TransformerConfig(positions="learned")
    model = models.build(config, input_shape=shape, num_outputs=VOCABULARY, rngs=nnx.Rngs(0))
    return model(jnp.asarray(inputs), train=False)  # pyright: ignore[reportCallIssue]

  with pytest.raises(ValueError, match=message):
    jax.eval_shape(run)


def test_rotary_positions_need_pairs_of_features():
  config = TransformerConfig(width=6, heads=2)
  (found,) = models.problems(config)
  assert found.startswith("model.positions: rotary rotates pairs of features, but a head has 3")
  assert models.problems(config.model_copy(update={"positions": "learned"})) == []
