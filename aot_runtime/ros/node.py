# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""The lifecycle node that every model family's node derives from."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from aot_runtime.errors import AotError, InputError
from aot_runtime.ros import transport
from aot_runtime.ros.diagnostics import DiagnosticsPublisher, HealthMonitor

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def describe(
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    read_only: bool = False,
    constraints: str = "",
) -> ParameterDescriptor:
    """A parameter descriptor; `low` and `high` (both or none) give the allowed range, of the type of `low`."""
    descriptor = ParameterDescriptor(description=description, read_only=read_only, additional_constraints=constraints)
    if low is not None and high is not None:
        if isinstance(low, int) and isinstance(high, int):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            ]
    return descriptor


class PerceptionNode(LifecycleNode):
    """A lifecycle node around one model.

    A subclass declares its parameters in its constructor (after `super().__init__`) with `declare`, then implements
    the four hooks; it may raise from any of them. A hook's exception becomes a FAILURE of the transition whose reason
    is logged, and what the step had done is undone: a failed `configure_family` is followed by `cleanup_family`, a
    failed `activate_family` by `deactivate_family`; these two must therefore cope with half-done work.

    Every node has the parameters `autostart`, `diagnostics_period`, and `max_input_age`.

    Args:
        name: the node's name.
        stages: see `HealthMonitor`.
        kwargs: for `rclpy.node.Node` (context, parameter_overrides, namespace, ...).
    """

    def __init__(self, name: str, stages: Sequence[str], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.health = HealthMonitor(stages)
        self.health.state = "unconfigured"
        self._locked: set[str] = set()
        self._said: dict[str, float] = {}
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._guard_lifecycle_service()
        self.declare("autostart", True, "Configure and activate by itself once the node spins.", read_only=True)
        period = self.declare(
            "diagnostics_period",
            1.0,
            "Seconds between reports on /diagnostics; 0 switches them off.",
            low=0.0,
            high=3600.0,
            read_only=True,
        )
        self.declare(
            "max_input_age",
            0.0,
            "Inputs whose stamp is older than this [s] when they arrive are dropped and counted; 0: no limit.",
            low=0.0,
            high=3600.0,
        )
        self.add_on_set_parameters_callback(self._refuse_locked)
        self._diagnostics = DiagnosticsPublisher(self, self.health, period_s=period) if period > 0 else None
        # The subclass's constructor still has to run, so the transitions wait for the first spin.
        self._autostart_timer = (
            self.create_timer(0.001, self._autostart, clock=self._steady) if self.value("autostart") else None
        )

    # -- parameters -------------------------------------------------------------------------------------------------

    def declare(
        self,
        name: str,
        default: Any,
        description: str,
        *,
        low: float | None = None,
        high: float | None = None,
        read_only: bool = False,
        constraints: str = "",
    ) -> Any:
        """Declares a parameter that is read at configure time, and returns its value.

        While the node is configured a change is refused with a reason, since it would have no effect.
        """
        descriptor = describe(description, low=low, high=high, read_only=read_only, constraints=constraints)
        self._locked.add(name)
        return self.declare_parameter(name, default, descriptor).value

    def value(self, name: str) -> Any:
        """The value of a declared parameter."""
        return self.get_parameter(name).value

    def _refuse_locked(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name in self._locked and self.health.state != "unconfigured":
                reason = f"{parameter.name} is read when the node is configured; it is {self.health.state}: clean it up"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    # -- hooks for the subclass ----------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        """Reads parameters, loads the artifact, makes publishers. Raise AotError with reason and remedy."""

    def activate_family(self) -> None:
        """Self-test, warm up, start workers, subscribe."""

    def deactivate_family(self) -> None:
        """Unsubscribe, stop workers. Also undoes a failed activation."""

    def cleanup_family(self) -> None:
        """Release the model and the publishers. Also undoes a failed configuration."""

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Runs `configure_family`; undone by `cleanup_family` if it fails."""
        entities = super().on_configure
        return self._step("configure", "inactive", self.configure_family, self.cleanup_family, entities, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Runs `activate_family`; undone by `deactivate_family` if it fails."""

        def activate() -> None:
            self.health.restart()
            self.activate_family()

        return self._step("activate", "active", activate, self.deactivate_family, super().on_activate, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Runs `deactivate_family`."""
        return self._step("deactivate", "inactive", self.deactivate_family, None, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Runs `cleanup_family`."""
        return self._step("clean up", "unconfigured", self.cleanup_family, None, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivates and cleans up, whatever the state; shutting down always succeeds."""
        self._undo("shut down", self.deactivate_family)
        self._undo("shut down", self.cleanup_family)
        self.health.state = "finalized"
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, so that the node can be configured again."""
        self._undo("recover", self.deactivate_family)
        self._undo("recover", self.cleanup_family)
        self.health.state = "unconfigured"
        return SUCCESS

    def _step(
        self,
        verb: str,
        state_after: str,
        work: Callable[[], None],
        undo: Callable[[], None] | None,
        entities: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
    ) -> TransitionCallbackReturn:
        """One transition: the subclass's work, then the managed entities (lifecycle publishers)."""
        try:
            work()
            result = entities(state)
            if result != SUCCESS:
                raise RuntimeError(f"a managed entity refused to {verb}")
        except Exception as error:
            reason = self._reason(error)
            self.get_logger().error(f"cannot {verb}: {reason}")
            self.health.warnings["lifecycle"] = f"cannot {verb}: {reason}"
            if undo is not None:
                self._undo(verb, undo)
            return FAILURE
        self.health.warnings.pop("lifecycle", None)
        self.health.state = state_after
        return SUCCESS

    def _undo(self, verb: str, undo: Callable[[], None]) -> None:
        try:
            undo()
        except Exception as error:
            self.get_logger().error(f"could not undo everything after a failed {verb}: {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        """What to tell the user; an unforeseen error also leaves its traceback in the debug log."""
        if isinstance(error, AotError):
            return str(error)
        self.get_logger().debug(traceback.format_exc())
        return f"{type(error).__name__}: {error}"

    def _autostart(self) -> None:
        if self._autostart_timer is not None:
            self.destroy_timer(self._autostart_timer)
            self._autostart_timer = None
        if self.health.state == "unconfigured" and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _guard_lifecycle_service(self) -> None:
        """Keeps an impossible transition asked for over the service from ending the process.

        rclpy raises out of the service callback, and so out of spin, when e.g. "activate" is asked of an unconfigured
        node; the answer should be success=False.
        """
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        original = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return original(request, response)
            except Exception as error:
                asked = request.transition.label or request.transition.id
                self.get_logger().warning(f"transition {asked} refused in state {self.health.state}: {error}")
                response.success = False
                return response

        service.callback = guarded

    # -- help for the subclass -----------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """ROS time (simulated if `use_sim_time`), nanoseconds."""
        return int(self.get_clock().now().nanoseconds)

    def warn_throttled(self, key: str, text: str, period_s: float = 5.0) -> None:
        """Logs a warning at most once a period for each key."""
        now = self._steady.now().nanoseconds * 1e-9
        if now - self._said.get(key, float("-inf")) >= period_s:
            self._said[key] = now
            self.get_logger().warning(text)

    def reject(self, cause: str, error: InputError) -> None:
        """Counts a malformed input under `cause` and warns, throttled."""
        self.health.dropped(cause)
        self.health.failed(self.health.stages[0], str(error))
        self.warn_throttled(cause, f"input dropped ({cause}): {error}")

    def destroy_node(self) -> None:
        """Releases the workers and the model before ROS entities go."""
        if self.health.state in ("active", "inactive"):
            self._undo("destroy", self.deactivate_family)
            self._undo("destroy", self.cleanup_family)
            self.health.state = "finalized"
        super().destroy_node()


def run_node(make: Callable[[], Any], argv: Sequence[str] | None = None, *, usage: str = "") -> int:
    """Spins a node until SIGINT, SIGTERM or a shutdown from outside: the `main` of every node.

    Args:
        make: makes the node, after `rclpy.init`. A node may have `exit_code` (int | None); when it is set,
            spinning ends.
        argv: arguments without the program's name; those of the process by default.
        usage: printed for --help.

    Returns:
        The process's exit status: 0, the node's `exit_code`, or 2 if the node could not be made.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        print(usage.strip())
        return 0
    transport.use_shipped_profile()
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    executor = SingleThreadedExecutor()
    try:
        with stop_on_signals() as stop:
            node = make()
            executor.add_node(node)
            while rclpy.ok() and not stop.is_set() and getattr(node, "exit_code", None) is None:
                executor.spin_once(timeout_sec=0.1)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ParameterException as error:
        print(f"error: {error}; give a double as 1.0, not 1, and keep to the documented range", file=sys.stderr)
        return 2
    finally:
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return getattr(node, "exit_code", None) or 0


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal raises KeyboardInterrupt.

    rclpy's own handlers invalidate the context at once, so that an executor which is about to wait raises RCLError, and
    nodes can no longer say what they leave undone. Here the context stays valid until the nodes are destroyed.
    """
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
