"""The playbook's procedures: each runs trainings, applies a rule, and recommends changes of a config, with evidence.

  trialbook tune max-steps --config=experiments/digits_resnet.py --dir=runs/max_steps

A procedure is a module with `run(lab, …) -> Conclusion`, named in `flags.PROCEDURES`. It runs its trainings as studies
in folders beneath its own, so it resumes as they do: the same call runs only what is missing.
"""
