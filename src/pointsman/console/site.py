"""A set of admin routes on a port: what every admin server does to begin and to end."""

from __future__ import annotations

from aiohttp import web

from pointsman.errors import StartupError


class Site:
    """Serves an application until stopped. ``flag`` names the option that chooses the port, for the message."""

    def __init__(self, host: str, port: int, flag: str) -> None:
        self._host, self._port, self._flag = host, port, flag
        self._runner: web.AppRunner | None = None

    async def start(self, app: web.Application) -> int:
        """Bind and serve; returns the port.

        Raises:
            StartupError: if the port cannot be had.
        """
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            raise StartupError(
                f"admin port {self._host}:{self._port} cannot be bound: {error.strerror}; choose another {self._flag}"
            ) from error
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """End; harmless when not started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
