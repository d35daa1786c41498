# SPDX-License-Identifier: Apache-2.0
"""What every family of networks uses: the artifact contract, and the ROS half of a perception node.

`export.export_model` turns a network and its checkpoint into one `.pt2` that says what it is (manifest.py), is checked
against eager PyTorch (parity.py) and carries a self-test (golden.py). `compiled_model.load_model` gives it a verdict
(verdict.py), runs the self-test and checks every input. Commands: `inspect_artifact`, `benchmark`. Nothing is imported
here, so that reading a manifest costs no torch.
"""
