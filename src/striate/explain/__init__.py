"""Why a network says what it says: maps of evidence on images, from any network."""

from striate.drawing import Pictured
from striate.explain.activations import (
    ActivationMaps,
    Hierarchy,
    Patch,
    Patches,
    Stage,
    activation_maps,
    hierarchy,
    top_patches,
)
from striate.explain.adversarial import Perturbation, smallest_perturbation
from striate.explain.cams import (
    cam,
    default_layer,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    score_cam,
    x_grad_cam,
)
from striate.explain.faithful import Curves, deletion_insertion, faithfulness, pointing_game
from striate.explain.filters import Filter, Filters, filters
from striate.explain.gradients import (
    deconvnet,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smooth_grad,
)
from striate.explain.inputs import Inputs
from striate.explain.inversion import Inversion, Inverted, invert
from striate.explain.methods import METHODS
from striate.explain.perturbation import occlusion, rise
from striate.explain.probe import Probe, probing
from striate.explain.result import Explanation
from striate.explain.sanity import (
    Check,
    Likeness,
    Randomisation,
    check,
    label_randomisation,
    likeness,
    model_randomisation,
)
from striate.explain.synthesis import Dream, Synthesis, deep_dream, maximize
from striate.explain.targets import ExplainWarning, Guess, class_named, detection_target, segmentation_target

__all__ = [
    "METHODS",
    "ActivationMaps",
    "Check",
    "Curves",
    "Dream",
    "ExplainWarning",
    "Explanation",
    "Filter",
    "Filters",
    "Guess",
    "Hierarchy",
    "Inputs",
    "Inversion",
    "Inverted",
    "Likeness",
    "Patch",
    "Patches",
    "Perturbation",
    "Pictured",
    "Probe",
    "Randomisation",
    "Stage",
    "Synthesis",
    "activation_maps",
    "cam",
    "check",
    "class_named",
    "deconvnet",
    "deep_dream",
    "default_layer",
    "deletion_insertion",
    "detection_target",
    "eigen_cam",
    "faithfulness",
    "filters",
    "grad_cam",
    "grad_cam_plus_plus",
    "guided_backprop",
    "hierarchy",
    "input_x_gradient",
    "integrated_gradients",
    "invert",
    "label_randomisation",
    "layer_cam",
    "likeness",
    "maximize",
    "model_randomisation",
    "occlusion",
    "pointing_game",
    "probing",
    "rise",
    "saliency",
    "score_cam",
    "segmentation_target",
    "smallest_perturbation",
    "smooth_grad",
    "top_patches",
    "x_grad_cam",
]
