"""How near generated answers come to their references."""

from __future__ import annotations

from llmexp.tasks.base import Row


def written_scores(answers: list[Row]) -> dict[str, float]:
    """exact_match, bleu (of the corpus), rouge_l (mean F1) and chrf (of the corpus), all 0 to 1."""
    if not answers:
        return {}
    from torchmetrics.text import CHRFScore, ROUGEScore, SacreBLEUScore

    predictions = [a["prediction"].strip() for a in answers]
    references = [a["reference"].strip() for a in answers]
    lists = [[r] for r in references]
    equal = sum(p == r for p, r in zip(predictions, references, strict=True))
    # Only rougeL: rougeLsum would split sentences with data that nltk has to download.
    rouge = ROUGEScore(rouge_keys="rougeL")(predictions, references)
    return {
        "exact_match": equal / len(answers),
        "bleu": float(SacreBLEUScore()(predictions, lists)),
        "rouge_l": float(rouge["rougeL_fmeasure"]),
        "chrf": float(CHRFScore()(predictions, lists)),
    }
