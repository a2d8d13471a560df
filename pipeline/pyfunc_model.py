"""The model as MLflow loads it: `mlflow.pyfunc.load_model(...).predict([texts])`. MLflow runs this file, `runtime` beside it.

MLflow reads the signature from the type hints of `predict`.
"""

from pathlib import Path

import mlflow
from pydantic import BaseModel


class Prediction(BaseModel):
    """One text's answer; `confidence` is the calibrated probability of `label`."""

    label: str
    confidence: float


class IntentModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is not typed
    """Texts in, one prediction a text out."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        from runtime.classifier import Classifier  # MLflow puts it on the path when it loads the model

        self.classifier = Classifier(Path(context.artifacts["model.json"]).parent)

    def predict(self, context: mlflow.pyfunc.PythonModelContext, model_input: list[str]) -> list[Prediction]:
        predictions = self.classifier.predict(model_input)
        sure = predictions.probabilities.max(axis=1)
        return [Prediction(label=label, confidence=float(p)) for label, p in zip(predictions.labels, sure, strict=True)]


mlflow.models.set_model(IntentModel())
