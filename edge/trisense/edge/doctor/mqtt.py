"""Whether the broker lets this box in, hear and speak, and whether a gateway is there to listen."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from typing import Any, Final

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from pydantic import ValidationError
from trisense.core import topics
from trisense.core.errors import ConfigError
from trisense.core.messages import GatewayState
from trisense.edge.doctor.model import Finding, Patient, Verdict

__all__ = ["check_mqtt"]

STEP_S: Final = 4.0
RETAINED_S: Final = 0.5
"""How long after its answer to the subscription a broker may take to send what it has retained."""
VERSIONS: Final = ((MQTTProtocolVersion.MQTTv5, "5"), (MQTTProtocolVersion.MQTTv311, "3.1.1"))
ALLOWED_IN: Final = "do user, password or certificate fit, and do the broker's rights name this box?"


class _Session:
    """A connection beside the box's own; what the broker answers comes out of a queue."""

    def __init__(self, patient: Patient, version: MQTTProtocolVersion) -> None:
        table = patient.config.mqtt
        # paho's own would take the answers: aiomqtt, which the box uses, does not hand out reason codes.
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"{patient.config.box.id}-doctor", protocol=version
        )
        self.client.connect_timeout = STEP_S
        if table.username is not None:
            self.client.username_pw_set(table.username, table.password())
        context = table.tls_context()
        if context is not None:
            self.client.tls_set_context(context)
        # The callbacks hold the queues and not this object, so that no circle keeps paho's sockets open.
        self.answers = answers = queue.Queue[tuple[str, Any]]()
        self.heard = heard = queue.Queue[tuple[str, bytes]]()
        self.client.on_connect = lambda *a: answers.put(("connect", a[3]))
        self.client.on_disconnect = lambda *a: answers.put(("disconnect", a[3]))
        self.client.on_subscribe = lambda *a: answers.put(("subscribe", a[3]))
        self.client.on_publish = lambda *a: answers.put(("publish", a[3]))
        self.client.on_message = lambda *a: heard.put((a[2].topic, a[2].payload))
        self._where = table.host, table.port

    def __enter__(self) -> _Session:
        self.client.connect(*self._where)
        self.client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def answer(self, kind: str) -> Any:
        """The broker's answer.

        Raises:
            ConnectionError: it hung up.
            TimeoutError: it says nothing.
        """
        try:
            found, code = self.answers.get(timeout=STEP_S)
        except queue.Empty:
            raise TimeoutError(f"no answer within {STEP_S:g} s") from None
        if found != kind:
            raise ConnectionError(f"the broker hung up: {code}")
        return code


def check_mqtt(patient: Patient) -> Iterator[Finding]:
    """Connect beside the box, listen for receipts, and say one word that nobody heeds."""
    running = patient.running
    if running is not None and running.link.connected:
        measured = f"the box is connected to {running.link.broker}, {running.link.receipts} receipts so far"
        silent = running.link.bundles > 0 and running.link.receipts == 0
        advice = "does a gateway run, and may it hear this box?" if silent else ""
        yield Finding("MQTT", Verdict.WARN if silent else Verdict.OK, measured, advice)
        return
    if running is None and patient.occupied:
        # A broker that takes the certificate's name for the client id would end the box's own connection.
        yield Finding("MQTT", Verdict.WARN, "not tried: a box runs and may not be asked", "run this as root")
        return
    for version, name in VERSIONS:
        try:
            with _Session(patient, version) as session:
                began_s = time.monotonic()
                code = session.answer("connect")
                if not code.is_failure:
                    took_ms = (time.monotonic() - began_s) * 1000
                    yield Finding("MQTT", Verdict.OK, f"version {name}, let in within {took_ms:.0f} ms")
                    yield from _rights(session, patient)
                    return
                trouble = str(code)
        except ConfigError:
            return  # told with the files
        except TimeoutError as error:
            trouble = str(error)
            break  # a broker of another version would have said so
        except (OSError, ValueError) as error:
            trouble = str(error)
    yield Finding("MQTT", Verdict.BAD, trouble, ALLOWED_IN)


def _rights(session: _Session, patient: Patient) -> Iterator[Finding]:
    box = patient.config.box.id
    wanted = [topics.receipt(box), topics.gateway_state("+")]
    wanted += [topics.command(box, "+"), topics.desired(box)]
    session.client.subscribe([(topic, 1) for topic in wanted])
    refused = [t for t, code in zip(wanted, session.answer("subscribe"), strict=True) if code.is_failure]
    # Mosquitto takes every subscription and checks the right to hear at each delivery; others say it here.
    if refused:
        measured = f"it may not hear {', '.join(refused)}"
        advice = "without receipts nothing is ever freed: " + ALLOWED_IN
        yield Finding("may hear", Verdict.BAD, measured, advice)
    else:
        yield Finding("may hear", Verdict.OK, "subscriptions for receipts and commands are taken")
    # A reply to a command that nobody gave: the one topic where an empty word means nothing to anybody.
    topic = topics.reply(box, "doctor")
    session.client.publish(topic, b"", qos=1)
    code = session.answer("publish")
    if code.is_failure:
        yield Finding("may speak", Verdict.BAD, f"{topic}: {code}", ALLOWED_IN)
    elif session.client.protocol is MQTTProtocolVersion.MQTTv5:
        yield Finding("may speak", Verdict.OK, f"{topic} is taken")
    else:
        advice = "version 3.1.1 acknowledges what it throws away: see whether receipts come"
        yield Finding("may speak", Verdict.OK, f"{topic} is acknowledged, which proves little", advice)
    yield _gateway(session)


def _gateway(session: _Session) -> Finding:
    states: dict[str, bool] = {}
    with contextlib.suppress(queue.Empty):
        while not any(states.values()):
            topic, payload = session.heard.get(timeout=RETAINED_S)
            if topic.startswith(topics.GATEWAY_ROOT):
                with contextlib.suppress(ValidationError):
                    states[topic.split("/")[-2]] = GatewayState.model_validate_json(payload).online
    online = [worker for worker, is_online in states.items() if is_online]
    if online:
        return Finding("gateway", Verdict.OK, f"online: {', '.join(online)}")
    measured = "no worker is online" if states else "no worker has ever said that it is online"
    advice = "start one: until then the box keeps everything on its disk"
    return Finding("gateway", Verdict.WARN, measured, advice)
