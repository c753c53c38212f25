"""One name for each defect of the released codes that this library could have.

Most are proven where the part is tested; this table says where, and fails if a proof goes away.
"""

from __future__ import annotations

import pytest
from conftest import TESTS

PROOFS = {
    "the best is a reference, so it is always the last": (
        "engine/test_loop.py", "test_the_best_is_a_clone_and_not_the_last",
    ),
    "the final images are never written": (
        "test_run.py", "test_the_final_images_are_written",
    ),
    "images are never evaluated": (
        "test_run.py", "test_the_evaluation_has_the_promised_rows",
    ),
    "creating a network reseeds the global generator": (
        "conftest.py", "global_random_state_is_untouched",
    ),
    "augmentation reseeds from the clock, runs cannot be repeated": (
        "test_run.py", "test_python_does_what_the_command_does",
    ),
    "synthetic images are not normalised as the real ones are": (
        "objectives/test_objective_conformance.py", "test_the_real_set_itself_has_no_distance",
    ),
    "two means in one program": (
        "evaluation/test_protocol.py", "test_equal_sets_get_equal_accuracy",
    ),
    "default arguments crash": (
        "sources/test_source_conformance.py", "test_images_are_in_range_detached_and_of_the_data",
    ),
    "students that are offered do not exist": (
        "students/test_student_conformance.py", "test_the_parts_fit_together",
    ),
    "relabelling classes one by one overwrites labels": (
        "data/test_images.py", "test_a_subset_is_relabelled_without_mixing_classes",
    ),
    "evaluation overwrites the training settings": (
        "test_run.py", "test_export_and_evaluate_a_run",
    ),
    "many images a class do not fit in memory": (
        "sources/test_source_conformance.py", "test_any_chunk_size_gives_the_gradient_of_autograd",
    ),
    "the best is chosen on the test set": (
        "test_run.py", "test_the_test_part_is_never_looked_at",
    ),
    "feature averages skip the last layer": (
        "engine/test_selection.py", "test_every_feature_and_position_counts",
    ),
    "there is no class activation map": (
        "engine/test_selection.py", "test_class_relevant_distance_equals_its_twin",
    ),
    "unknown options are ignored": (
        "test_config.py", "test_wrong_overrides_are_named",
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", PROOFS)
def test_a_proof_exists(defect):
    file, name = PROOFS[defect]
    assert f"def {name}(" in (TESTS / file).read_text()
