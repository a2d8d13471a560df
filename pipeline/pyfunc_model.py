"""The model as MLflow loads it (`mlflow.pyfunc.load_model(...).predict([texts])`); MLflow runs this file, with `runtime` beside it."""

from pathlib import Path

import mlflow
import pandas as pd
from runtime.classifier import Classifier


class IntentModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Texts in; a frame with `label` and `confidence` out, one row a text."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        self.classifier = Classifier(Path(context.artifacts["model"]))

    def predict(self, context: mlflow.pyfunc.PythonModelContext, model_input: list[str]) -> pd.DataFrame:
        predictions = self.classifier.predict(model_input)
        return pd.DataFrame({"label": predictions.labels, "confidence": predictions.probabilities.max(axis=1)})


mlflow.models.set_model(IntentModel())
