"""The laboratory: a rendered world of coloured shapes, models that were trained on it, and how to train them. Nothing
in schemas, inference, trainers or pipelines knows of it."""
