"""Who may say what: roles of a client, and the messages that each allows."""

from streams.messages import (
    CardiacOutput,
    DopplerVelocity,
    FiducialTouch,
    FlowSample,
    Heartbeat,
    ImageFrame,
    Note,
    PatientRegistration,
    PressureSamples,
    ProcedureEnd,
    SectionFlow,
    ToolPose,
    Trigger,
    VitalSign,
    WaveformSamples,
)

PUBLISH_POSES, PUBLISH_PRESSURE, PUBLISH_IMAGES = "publish poses", "publish pressure", "publish images"
COMMAND, WATCH = "command", "watch"

ROLES = (PUBLISH_POSES, PUBLISH_PRESSURE, PUBLISH_IMAGES, COMMAND, WATCH)

MESSAGES: dict[str, tuple[type, ...]] = {
    PUBLISH_POSES: (ToolPose, FiducialTouch, PatientRegistration, Heartbeat, Note),
    PUBLISH_PRESSURE: (
        PressureSamples,
        FlowSample,
        SectionFlow,
        DopplerVelocity,
        CardiacOutput,
        WaveformSamples,
        VitalSign,
        Trigger,
        Heartbeat,
        Note,
    ),
    PUBLISH_IMAGES: (ImageFrame, Heartbeat, Note),
    COMMAND: (ProcedureEnd, Note),
    WATCH: (),
}
"""What a client with a role may publish."""

DEVICES, STATES, COMMANDS = "devices", "states", "commands"
"""The twin's sockets, as domains of authentication."""

DOMAIN_ROLES: dict[str, tuple[str, ...]] = {
    DEVICES: (PUBLISH_POSES, PUBLISH_PRESSURE, PUBLISH_IMAGES, COMMAND),
    STATES: (WATCH,),
    COMMANDS: (COMMAND, WATCH),
}
"""Any one of these roles opens a socket."""

SIMULATOR, BRIDGE, VIEWER = "simulator", "bridge", "viewer"
"""The project's own clients, by the names under which they look for their keys."""


def allowed_types(roles: tuple[str, ...]) -> frozenset[type]:
    """Everything that a client with some roles may publish."""
    return frozenset(kind for role in roles for kind in MESSAGES[role])
