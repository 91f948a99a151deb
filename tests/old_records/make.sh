#!/usr/bin/env bash
# Makes the records in this folder with the code of an earlier commit. They were made once and stay as they are:
# tests/test_old_records.py checks that the present code reads, resumes and extends them.
#
#   PYTHON=.venv/bin/python tests/old_records/make.sh 53ecbe9
#
# The files below are a user's files of that time, so they import `trainer` and `tuning`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$(realpath --no-symlinks "${PYTHON:-python3}")
work=$(mktemp -d)
mkdir "$work/checkout" && git -C "$here/../.." archive "$1" | tar -x -C "$work/checkout"
trap 'rm -rf "$work"' EXIT
cd "$work"
export PYTHONPATH=$work/checkout:$work JAX_PLATFORMS=cpu

cat > experiment.py << 'END'
import os
import signal

from input_pipeline import Table
from models import MlpConfig
from trainer import Averaging, Checkpointing, Config, Evaluation, Logging, metrics
from trainer.optimizers import Adam
from trainer.schedules import Cosine

record = metrics.Recorder.step


def step(self, number, *values):
  record(self, number, *values)
  if number == int(os.environ.get("PREEMPTED_AT", 0)):
    os.kill(os.getpid(), signal.SIGTERM)


metrics.Recorder.step = step


def get_config():
  return Config(
    dataset=Table(),
    model=MlpConfig(widths=(4,)),
    optimizer=Adam(learning_rate=0.01),
    schedule=Cosine(warmup_steps=5),
    clip_norm=1.0,
    averaging=Averaging(decay=0.9),
    max_train_steps=20,
    batch_size=32,
    evaluation=Evaluation(
      every_steps=5, batch_size=128, train_examples=64, test=True, predictions=2,
      metrics=("trainer.split_metrics:area_under_curve",),
    ),
    checkpointing=Checkpointing(keep_latest=1),
    logging=Logging(tensorboard=False),
    export=False,
    compilation_cache=None,
  )
END

cat > study_of_trainings.py << 'END'
import experiment
from tuning import Log, Minimize, Study


def get_study():
  return Study(
    name="rates",
    goal="Which learning rate?",
    config=experiment.get_config().override({"max_train_steps": 10, "evaluation.predictions": 0}),
    objective=Minimize("validation/error"),
    nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)},
    trials=3,
  )
END

cat > study_of_a_function.py << 'END'
from tuning import Halton, Linear, Minimize, OneOf, Study


def get_study():
  return Study(
    name="bowls",
    goal="Which bowl is deeper?",
    objective=Minimize("loss"),
    function="bowl:bowl",
    scientific={"shape": OneOf(["wide", "narrow"])},
    nuisance={"x": Linear(-1.0, 1.0)},
    search=Halton(seed=0),
    trials=6,
  )
END

cat > round.py << 'END'
import dataclasses

import study_of_a_function
from tuning import OneOf, Round


def get_study():
  study = study_of_a_function.get_study()
  named = lambda shape: dataclasses.replace(study, name=shape, scientific={"shape": OneOf([shape])}, trials=2)
  return Round(name="shapes", goal="Which bowl is deeper?", studies=(named("wide"), named("narrow")))
END
cp "$here/bowl.py" .

mkdir table
cat > table/trials.csv << 'END'
trial,learning_rate
a,0.001
b,0.01
c,0.1
d,1.0
END
cat > table/curves.csv << 'END'
trial,step,metric,value
a,10,validation/error,0.50
a,20,validation/error,0.30
b,10,validation/error,0.20
b,20,validation/error,0.12
c,10,validation/error,0.15
c,20,validation/error,0.16
d,10,validation/error,0.70
d,20,validation/error,0.60
END

mkdir runs
"$python" -m tuning import csv table runs/imported --objective=validation/error --mode=min
train() { "$python" -m trainer --config=experiment.py "$@"; }
train --workdir=runs/complete
PREEMPTED_AT=12 train --workdir=runs/stopped || test $? = 75
train --workdir=runs/fork --fork=runs/stopped --set optimizer.learning_rate=0.005
train --workdir=runs/warm --set warm_start.source=runs/complete --set max_train_steps=5
"$python" -m tuning run --study=study_of_trainings.py --dir=runs/trainings
"$python" -m tuning run --study=study_of_a_function.py --dir=runs/function
"$python" -m tuning run --study=round.py --dir=runs/round

# Neither the machine nor a folder of it belongs into the repository.
find runs -name '*.log' -o -name '.*lock' -o -name '__pycache__' | xargs rm -rf
grep -rlIZ -e "$work" -e "$python" -e "$(uname -n)" runs | xargs -0 sed -i \
  -e "s|$work/||g; s|$python|python|g; s|\"$(uname -n)\"|\"host\"|g; s|$(uname -n)|host|g"
find runs -name run.json -print0 | xargs -0 sed -i 's|"system": "[^"]*"|"system": "Linux"|'
rm -rf "$here/runs"
mv runs "$here/runs"
