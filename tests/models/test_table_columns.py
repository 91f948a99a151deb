import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook import models
from trialbook.models import MlpConfig
from trialbook.models.mlp import Mlp
from trialbook.models.table_columns import EmbeddedColumn, TableColumns

COLUMNS = (
  EmbeddedColumn(column=2, categories=3, width=2),
  EmbeddedColumn(column=0, categories=300, width=4),
)
ROWS = np.array([[299, 0.5, 2, -1.5], [0, 1.5, 0, 7.0]], np.float32)


@pytest.mark.slow
def test_codes_become_their_vectors_and_numbers_stay():
  layer = TableColumns(COLUMNS, input_shape=(4,), rngs=nnx.Rngs(0))
  small, large = (np.asarray(table.table[...]) for table in layer.tables)
  expected = [[0.5, -1.5, *small[2], *large[299]], [1.5, 7.0, *small[0], *large[0]]]
  np.testing.assert_array_equal(layer(jnp.asarray(ROWS)), np.asarray(expected, np.float32))


@pytest.mark.slow
def test_an_mlp_takes_them_and_trains_their_tables():
  config = MlpConfig(widths=(5,), embeddings=COLUMNS)
  model = Mlp(config, input_shape=(4,), num_outputs=2, rngs=nnx.Rngs(0))
  assert model.hidden[0].linear.kernel.shape == (2 + 2 + 4, 5)
  graph, params, rest = nnx.split(model, nnx.Param, ...)
  gradient = jax.grad(lambda p: nnx.merge(graph, p, rest, copy=True)(jnp.asarray(ROWS), train=True).sum())(params)
  touched = np.abs(gradient["columns"]["tables"][1]["table"][...]).sum(1) > 0
  assert np.flatnonzero(touched).tolist() == [0, 299]


@pytest.mark.parametrize("wrong", [-1.0, 3.0, 0.5, np.nan, np.inf])
def test_what_is_not_a_code_shows_as_nan(wrong):
  layer = TableColumns(COLUMNS, input_shape=(4,), rngs=nnx.Rngs(0))
  rows = ROWS.copy()
  rows[1, 2] = wrong
  assert np.isnan(layer(jnp.asarray(rows))).any(1).tolist() == [False, True]


@pytest.mark.slow
def test_bfloat16_is_refused_where_it_would_round_codes_and_exact_where_it_would_not():
  few = (EmbeddedColumn(column=0, categories=257, width=1),)
  layer = TableColumns(few, input_shape=(1,), rngs=nnx.Rngs(0))
  codes = jnp.arange(257, dtype=jnp.float32)[:, None]
  (table,) = layer.tables
  table.table[...] = codes  # Vector i is the number i.
  np.testing.assert_array_equal(layer(codes), codes)
  table.table.set_value(codes.astype(jnp.bfloat16))
  np.testing.assert_array_equal(layer(codes.astype(jnp.bfloat16)).astype(jnp.float32), codes)
  with pytest.raises(ValueError, match=r"^model\.embeddings: bfloat16 cannot hold codes of 300 categories.*float32"):
    TableColumns(COLUMNS, input_shape=(4,), rngs=nnx.Rngs(0))(jnp.asarray(ROWS, jnp.bfloat16))


def test_columns_that_are_not_there_or_there_twice_are_refused():
  with pytest.raises(ValueError, match=r"^model\.embeddings\.0\.column: there is no column 2; .* has columns 0 to 1"):
    TableColumns(COLUMNS, input_shape=(2,), rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r"only rows of a table have columns.*\(4, 4\)"):
    TableColumns(COLUMNS, input_shape=(4, 4), rngs=nnx.Rngs(0))
  twice = MlpConfig(embeddings=(*COLUMNS, COLUMNS[0]))
  assert models.problems(twice) == [
    "model.embeddings.2.column: column 2 is already embedded by model.embeddings.0; leave one of them out"
  ]


def test_all_columns_may_be_embedded():
  layer = TableColumns(COLUMNS[:1], input_shape=(3,), rngs=nnx.Rngs(0))
  assert layer(jnp.asarray(ROWS[:, :3])).shape == (2, 4)
  alone = TableColumns((EmbeddedColumn(column=0, categories=3, width=2),), input_shape=(1,), rngs=nnx.Rngs(0))
  assert alone(jnp.zeros((5, 1))).shape == (5, 2)
