"""sentence-transformers for the features, scikit-learn's logistic regression on them."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from work import Clock, given

work, clock = given(), Clock()
train, test = work.rows("train"), work.rows("test")
clock.start()
encoder = SentenceTransformer(work.model)
encoder.max_seq_length = work.max_length
features = {
    name: encoder.encode([row["text"] for row in rows], show_progress_bar=False)
    for name, rows in (("train", train), ("test", test))
}
classifier = LogisticRegression(max_iter=1000)
classifier.fit(features["train"], [row["label"] for row in train])
clock.stop()
clock.report(accuracy=classifier.score(features["test"], [row["label"] for row in test]))
