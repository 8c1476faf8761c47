"""Fit a support vector classifier to scikit-learn's iris flowers and write ``model.joblib`` into the folder that is named."""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.svm import SVC

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "iris")
folder.mkdir(parents=True, exist_ok=True)
flowers = load_iris()
joblib.dump(SVC(gamma="scale").fit(flowers.data, flowers.target), folder / "model.joblib")
print(f"wrote {folder / 'model.joblib'}")
