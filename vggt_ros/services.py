# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""The services of `vggt_node`. They say why something was not done, and never make the executor wait for a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from std_srvs.srv import SetBool, Trigger

from aot_runtime.errors import AotError, InputError
from vggt_ros.parameters import existing

if TYPE_CHECKING:
    from aot_runtime.ros.model_node import ModelNode
    from vggt_ros.shared_map import SharedMap

MAP_PATH = "map_path"
"""The parameter with the file of `~/save_map` and `~/load_map`: services without types of their own carry no path."""
_PATIENCE_S = 2.0


class MapServices:
    """`~/bootstrap`, `~/reset`, `~/save_map`, `~/load_map`, `~/pause`; they answer once the node is active.

    Args:
        node: has the parameter `MAP_PATH`.
        shared: the map.
        can_bootstrap: whether there is a source of bootstraps.

    Attributes:
        forced: somebody asked for a bootstrap; who makes it sets this back.
        paused: images are to be let go by.
    """

    def __init__(self, node: ModelNode, shared: SharedMap, *, can_bootstrap: bool) -> None:
        self.forced = self.paused = False
        self._node, self._shared, self._can_bootstrap = node, shared, can_bootstrap
        self._services = [
            node.create_service(Trigger, "~/bootstrap", self._on_bootstrap),
            node.create_service(Trigger, "~/reset", self._on_reset),
            node.create_service(Trigger, "~/save_map", self._on_save_map),
            node.create_service(Trigger, "~/load_map", self._on_load_map),
            node.create_service(SetBool, "~/pause", self._on_pause),
        ]

    def close(self) -> None:
        """Destroys the services."""
        for service in self._services:
            self._node.destroy_service(service)
        self._services.clear()

    def start(self) -> None:
        """Neither paused nor asked for anything, as after an activation."""
        self.forced = self.paused = False
        self._node.health.warnings.pop("pause", None)

    def _on_bootstrap(self, request: Any, response: Any) -> Any:
        def work() -> str:
            if not self._can_bootstrap:
                raise InputError(
                    "expected something that bootstraps, found neither vggt_model nor bootstrap_file",
                    "configure the node with one of them",
                )
            if self.paused:
                raise InputError("expected a node that takes images, found it paused", "call ~/pause with false")
            self.forced = True
            return "the next images bootstrap; /diagnostics tells what became of it under 'last bootstrap'"

        return self._answer(response, work)

    def _on_reset(self, request: Any, response: Any) -> Any:
        def work() -> str:
            with self._shared.alone(_PATIENCE_S) as pipeline:
                self._shared.begin()
                self._node.health.warnings.pop("scale", None)
                return f"the map has {pipeline.map.size} elements"

        return self._answer(response, work)

    def _on_save_map(self, request: Any, response: Any) -> Any:
        def work() -> str:
            path = self._path()
            if not path.parent.is_dir():
                raise InputError(f"expected a folder for the map, found none at {path.parent}", "make it first")
            with self._shared.alone(_PATIENCE_S) as pipeline:
                return f"{pipeline.save_map(path)} elements in {pipeline.scale.unit} written to {path}"

        return self._answer(response, work)

    def _on_load_map(self, request: Any, response: Any) -> Any:
        def work() -> str:
            path = existing(str(self._path()), MAP_PATH)
            with self._shared.alone(_PATIENCE_S) as pipeline:
                self._shared.load(path)
                return f"{pipeline.map.size} elements in {pipeline.scale.unit} read from {path}"

        return self._answer(response, work)

    def _on_pause(self, request: Any, response: Any) -> Any:
        def work() -> str:
            self.paused = bool(request.data)
            if self.paused:
                self._node.health.warnings["pause"] = "paused"
                return "paused"
            self._node.health.warnings.pop("pause", None)
            return "going on"

        return self._answer(response, work)

    def _path(self) -> Path:
        told = str(self._node.get_parameter(MAP_PATH).value)
        if not told:
            raise InputError(
                f"expected a file in the parameter '{MAP_PATH}', found it empty",
                f"ros2 param set {self._node.get_fully_qualified_name()} {MAP_PATH} /path/to/map.npz",
            )
        return Path(told).expanduser()

    def _answer(self, response: Any, work: Callable[[], str]) -> Any:
        try:
            if self._node.health.state != "active":
                raise InputError(f"expected an active node, found it {self._node.health.state}", "activate it")
            response.message = work()
            response.success = True
        except (AotError, OSError) as error:
            response.success = False
            response.message = str(error)
            self._node.get_logger().warning(f"service refused: {error}")
        return response
