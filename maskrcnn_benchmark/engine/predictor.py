"""The original's demo of detectors without text, which this project does not contain."""


class COCODemo:
    """Answers with what exists instead.

    Raises: NotImplementedError, always.
    """

    def __init__(self, *args, **kwargs):
        raise NotImplementedError(
            "COCODemo shows detectors without text (Faster R-CNN, RetinaNet, ATSS), which this project does not have. "
            "There are maskrcnn_benchmark.engine.detector_api.Detector, "
            "maskrcnn_benchmark.engine.predictor_glip.GLIPDemo and the command 'glip predict'."
        )
