"""Which parts there are, in the order in which they run."""

from __future__ import annotations

from gpu_parts.part import Part

PARTS = {
    "machine": Part(
        "The machine", "gpu_parts.machine:machine", 60, "torch finds the device that is asked for"
    ),
    "build": Part(
        "Building the native operations", "gpu_parts.machine:build", 300, "what is there compiles"
    ),
    "kernels-library": Part(
        "Kernels of the library against the references",
        "gpu_parts.kernels:of_library", 120, "no value deviates more than rounding explains",
    ),
    "kernels-nvrtc": Part(
        "Kernels of NVRTC against the references",
        "gpu_parts.kernels:of_nvrtc", 120, "no value deviates more than rounding explains",
    ),
    "golden": Part(
        "Numbers of the official code", "gpu_parts.golden:golden", 90,
        "ieee: 1e-4 of the largest value; tf32: 3e-2",
    ),
    "waits": Part(
        "Waits and dispatches of a step", "gpu_parts.waits:waits", 120,
        "the host waits at most three times a step",
    ),
    "steps-dm": Part(
        "Steps of distribution matching", "gpu_parts.steps:dm", 120,
        "every way runs, the native one is the faster, images agree",
    ),
    "steps-dc": Part(
        "Steps of gradient matching", "gpu_parts.steps:dc", 150,
        "every way runs, the native one is the faster, images agree",
    ),
    "steps-regression": Part(
        "Steps of regression", "gpu_parts.steps:regression", 120,
        "every way runs, the native one is the faster, images agree",
    ),
    "graphs": Part(
        "Generators captured as graphs", "gpu_parts.graphs:graphs", 90,
        "images and derivatives are those without graphs to the bit, and come sooner",
    ),
    "bandwidth": Part(
        "Bandwidth of the operations", "gpu_parts.bandwidth:bandwidth", 90,
        "shares of a copy's: bias_act 0.6, upfirdn2d 0.3, filtered_lrelu 0.1",
    ),
    "tiles": Part(
        "Tiles of filtered_lrelu by shared memory", "gpu_parts.choices:tiles", 60,
        "what is chosen takes at most 1.15 times what the best limit of shared memory takes",
    ),
    "layouts": Part(
        "Channels-last images, as they lie or copied", "gpu_parts.choices:layouts", 60,
        "as they lie takes at most 1.15 times what copies in and out take",
    ),
    "scales": Part(
        "Scales inside filtered_lrelu, or one after another", "gpu_parts.choices:scales", 60,
        "inside is the faster, forward and backward",
    ),
    "digits": Part(
        "The digits, distilled on both devices", "gpu_parts.digits:digits", 150,
        "accuracies differ by 3 standard deviations over seeds at most, or by 2 points",
    ),
    "sanitizer": Part(
        "compute-sanitizer over the tests of the kernels", "gpu_parts.sanitizer:sanitizer", 300,
        "no error",
    ),
}  # fmt: skip
