"""The main job on real data, run by ``trunkline demo``: scikit-learn's handwritten digits, from pictures to a live model."""
