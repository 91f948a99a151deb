"""NAdamW against AdamW on AlgoPerf's LibriSpeech Conformer workload, in the search spaces of its baselines.

trialbook tune run --study=experiments/studies/algoperf_librispeech_conformer.py --dir=runs/librispeech_conformer

The spaces are those of Dahl et al. (2023), arXiv:2306.07179:
`tuning_search_space.json` of `adamw` and `nadamw` in algorithms/archived_paper_baselines of
github.com/mlcommons/algorithmic-efficiency. β₂ is 0.999 and ε is 1e-8. A warmup over 5% of the steps is followed by a
cosine decay to 0. The published spaces include label smoothing, which the CTC loss ignores. Two things differ here:
weight decay leaves out biases and normalization layers, and NAdamW adds ε before its bias correction.

The study trains the tiny size. For the published size, replace `config()` by `published()`.
"""

from trialbook import Config, Discrete, Halton, Log, Minimize, OneOf, Study
from trialbook.experiments.algoperf import librispeech_conformer

WARMUP = 0.05


def get_study() -> Study:
  config = Config().override(librispeech_conformer.config())
  return Study(
    name="librispeech_conformer",
    goal="Does NAdamW reach a lower word error rate than AdamW?",
    config=config.override(
      {
        "optimizer.beta2": 0.999,
        "optimizer.epsilon": 1e-8,
        "schedule.name": "cosine",
        "schedule.warmup_steps": int(WARMUP * config.max_train_steps),
      }
    ),
    objective=Minimize("validation/wer"),
    scientific={
      "optimizer": OneOf(
        {
          "adamw": {"learning_rate": Log(1e-4, 1e-2), "one_minus_beta1": Log(2e-2, 0.5)},
          "nadam": {"learning_rate": Log(1e-4, 1e-2), "one_minus_beta1": Log(4e-3, 0.1)},
        }
      )
    },
    nuisance={"optimizer.weight_decay": Log(5e-3, 1.0), "model.traced.dropout_rate": Discrete((0.0, 0.1))},
    trials=40,
    search=Halton(seed=0),
  )
