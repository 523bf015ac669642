"""An extension of Jupyter's server: kernel websockets without Nagle's algorithm.

The server sends each message of a kernel as a packet of its own. Nagle's algorithm holds a small
packet back until the one before it is acknowledged, and a browser's machine acknowledges a lone
packet up to 40 ms late; so almost every message of a widget comes 40 ms late. With ``TCP_NODELAY``
the echo of a small message takes 5 ms instead of 46: `labkit doctor` measures it here.

Installing labkit enables the extension: ``jupyter_config/labkit.json`` goes to Jupyter's
``jupyter_server_config.d``. Voila as an extension of that server profits as well; Voila on its own
loads no extensions, but has a setting for the class: ``jupyter_config/voila.json``.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

_SETTING = "kernel_websocket_connection_class"


def no_delay(connection: Any) -> Any:
    """Return a subclass of a kernel websocket connection class that sends without delay.

    Args:
        connection: The class in use: Jupyter's own, or one that another package put in its place.

    Returns:
        A class whose ``connect()`` first turns ``TCP_NODELAY`` on, if the websocket can do that,
        and then does what `connection` does.
    """

    class NoDelay(connection):
        def connect(self) -> Any:
            try:
                self.websocket_handler.set_nodelay(True)
            except Exception as error:  # a late message is no reason to lose the kernel
                self.log.debug("labkit: no TCP_NODELAY on this websocket: %r", error)
            return super().connect()

    return NoDelay


NoDelayConnection = no_delay(ZMQChannelsWebsocketConnection)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "labkit.server"}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    settings = serverapp.web_app.settings
    if not isinstance(settings.get(_SETTING), type):
        serverapp.log.debug("labkit: this server has no setting %s", _SETTING)
        return
    settings[_SETTING] = no_delay(settings[_SETTING])
    serverapp.log.info("labkit: kernel websockets send without delay (TCP_NODELAY)")
