"""The one place that knows every engine."""

from __future__ import annotations

from generator.engines import Engine
from generator.recipe import ModelSettings


def open_engine(model: ModelSettings) -> Engine:
    """Open the engine that a recipe names. Imports stay inside: only the chosen one is loaded.

    Raises:
        EngineUnavailable: a file or package that it needs is missing.
    """
    match model.engine:
        case "openai":
            from generator.engines.openai import OpenAIEngine

            return OpenAIEngine(model)
        case "vllm":
            from generator.engines.vllm import VllmEngine

            return VllmEngine(model)
        case "transformers":
            from generator.engines.transformers import TransformersEngine

            return TransformersEngine(model)
        case "recorded":
            from generator.engines.recorded import RecordedEngine

            return RecordedEngine(model)
