"""The better direction of a metric, by its name. The one table for selecting checkpoints and ranking trials."""

import re
from typing import Literal

Mode = Literal["min", "max"]

_BETTER: dict[Mode, str] = {
  "min": """
    loss logloss error errors err error_rate mse nmse rmse nrmse msle rmsle mae mape smape
    nll negative_log_likelihood cross_entropy crossentropy deviance perplexity ppl
    bits_per_byte bits_per_token bits_per_character bits_per_char bits_per_dim bpb bpc bpd
    wer cer ter eer ece mce brier edit_distance levenshtein_distance hausdorff hausdorff_distance fid kid lpips regret
    false_positive_rate false_negative_rate false_discovery_rate fpr fnr fdr
  """,
  "max": """
    accuracy acc precision recall sensitivity specificity f1 f_score fbeta exact_match
    true_positive_rate true_negative_rate tpr tnr positive_predictive_value negative_predictive_value ppv npv
    area_under_curve area_under_the_curve auc auc_roc auc_pr auroc auprc average_precision mean_average_precision ap map
    iou miou intersection_over_union dice dice_coefficient jaccard jaccard_index
    bleu sacrebleu chrf rouge rouge_l rougel rouge_lsum rougelsum meteor cider pass pass_rate hits
    ssim ms_ssim psnr inception_score ndcg mrr mean_reciprocal_rank
    r2 r_squared explained_variance pearson pearsonr pearson_correlation spearman spearmanr spearman_correlation kendall
    kappa mcc matthews_corrcoef matthews_correlation
    likelihood log_likelihood elbo reward return returns success_rate win_rate hit_rate
  """,
}
_KNOWN: dict[tuple[str, ...], Mode] = {
  tuple(re.findall(r"[a-z]+|\d+", name)): mode for mode, names in _BETTER.items() for name in names.split()
}
_LONGEST = max(map(len, _KNOWN))
_OF_WHICH = {"at", "top", "k", "macro", "micro", "weighted", "mean", "average", "avg", "score"}
"""Words behind a name that say which kind of the same metric it is, as in `precision_at_5` and `f1_macro`."""
_TURNED = {"negative", "negated", "neg", "minus", "inverse"}
"""Words before a name that may turn its direction around."""
_RELATED = {"to", "until", "till", "of", "before", "after", "since", "at", "for", "from", "by"}
"""Words before a name that say that something else is measured, as in `time_to_accuracy`."""
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "eval", "test"}
_ALONE = {("map",), ("ap",), ("pass",), ("returns",)}
"""Names that are words of other names, too (`attention_map`): they count beside a split and `_OF_WHICH` only."""


def better(metric: str) -> Mode | None:
  """Return the better direction of a metric, or None if its name does not imply one.

  The last part of a name counts (`validation/top_5_error` ends in `error`), however it is written (`Mean Average
  Precision`, `top-5-error`), without a split in front of a slash and without what says which kind it is (`f1_macro`,
  `recall@10`). Nothing is guessed: a name that ends in another word is unknown (`accuracy_gap`), and so is one that may
  be turned around (`neg_mean_squared_error`, `1 - accuracy`) or measures something else (`steps_to_accuracy`).
  """
  words = re.findall(r"[a-z]+|\d+", metric.rpartition("/")[2].lower())
  while words:
    for count in range(min(_LONGEST, len(words)), 0, -1):
      mode = _KNOWN.get(tuple(words[-count:]))
      if mode is not None:
        return None if _is_other(words[:-count], tuple(words[-count:])) else mode
    if not (words[-1].isdecimal() or words[-1] in _OF_WHICH):
      return None
    words.pop()
  return None


def _is_other(before: list[str], name: tuple[str, ...]) -> bool:
  """Return whether the words before a metric's name may make something else of it."""
  if (_TURNED | _RELATED) & {*before} or (name in _ALONE and {*before} - _SPLITS - _OF_WHICH):
    return True
  # 1 - accuracy, but not top-1 accuracy.
  return any(
    word in ("1", "one") and (at == 0 or before[at - 1] in _SPLITS | {"one"}) for at, word in enumerate(before)
  )


def contradiction(metric: str, mode: str | None) -> str | None:
  """Return a warning if the direction that was chosen for a metric is not the one that its name implies, else None."""
  known = better(metric)
  if mode is None or known in (None, mode):
    return None
  chosen, better_ones = ("smallest", "larger") if mode == "min" else ("largest", "smaller")
  return f"the {chosen} {metric} counts as the best, but its name suggests that {better_ones} values are better"
