"""The model that `mlflow.pyfunc.load_model(...)` loads. MLflow runs this file next to a copy of `runtime`.

MLflow reads the signature from the type hints of `predict`.
"""

from pathlib import Path

import mlflow
from pydantic import BaseModel


class Prediction(BaseModel):
    """The prediction for one text; `confidence` is the calibrated probability of `label`."""

    label: str
    confidence: float


class IntentModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is not typed
    """A classifier that returns one prediction for each text."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        from runtime.classifier import Classifier  # MLflow adds it to the path when it loads the model

        self.classifier = Classifier(Path(context.artifacts["model.json"]).parent)

    def predict(self, context: mlflow.pyfunc.PythonModelContext, model_input: list[str]) -> list[Prediction]:
        predictions = self.classifier.predict(model_input)
        confidence = predictions.probabilities.max(axis=1)
        return [Prediction(label=label, confidence=float(p)) for label, p in zip(predictions.labels, confidence, strict=True)]


mlflow.models.set_model(IntentModel())
