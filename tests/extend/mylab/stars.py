"""A task: classes that are numbers, where to be off by one is better than by four."""

from llmexp.config import spec
from llmexp.tasks.base import Row
from llmexp.tasks.classification import Classification


@spec
class Stars(Classification):
    """Rows of `text` and `label`, a whole number of stars; adds `test/stars_off`."""

    def answer_scores(self, answers: list[Row]) -> dict[str, float]:
        off = [abs(int(a["prediction"]) - int(a["reference"])) for a in answers]
        return {"stars_off": sum(off) / len(off)}
