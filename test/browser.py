"""A real headless Chromium for the tests, spoken to through its debugging pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')


def find() -> str | None:
    """Path of a Chromium of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page in a browser of its own."""

    def __init__(self, file: Path, width: int, height: int, dark: bool = False) -> None:
        """Open a file and wait until it is loaded."""
        self.complaints: list[str] = []
        """Errors and warnings of the console, and exceptions that nobody caught."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._to_browser = os.pipe()
        self._from_browser, from_browser = os.pipe()
        command = [
            str(find()), '--headless=new', '--no-sandbox', '--disable-gpu',
            '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe',
            f'--user-data-dir={self._profile.name}', 'about:blank',
        ]  # fmt: skip

        def place() -> None:
            """The browser reads commands from file 3 and answers on file 4."""
            ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in (to_browser, from_browser)]
            for end, number in zip(ends, (3, 4)):
                os.dup2(end, number)

        self._process = subprocess.Popen(
            command, preexec_fn=place, close_fds=False, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._count, self._session = b'', 0, ''
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        if dark:
            features = [{'name': 'prefers-color-scheme', 'value': 'dark'}]
            self.call('Emulation.setEmulatedMedia', features=features)
        self.call('Page.navigate', url=file.resolve().as_uri())
        deadline = time.monotonic() + 180
        while self.run('document.readyState + location.protocol') != 'completefile:':
            assert time.monotonic() < deadline, 'the page does not load'
            time.sleep(0.05)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        self._count += 1
        command = {'id': self._count, 'method': method, 'params': parameters}
        if self._session:
            command['sessionId'] = self._session
        os.write(self._to_browser, json.dumps(command).encode() + b'\0')
        while True:
            message = self._receive()
            if message.get('id') == self._count:
                assert 'result' in message, message
                return message['result']
            self._hear(message)

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        found = self.call('Runtime.evaluate', expression=script, returnByValue=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save what the page looks like as PNG."""
        found = self.call('Page.captureScreenshot', captureBeyondViewport=whole, **(
            {'clip': {**self.run(
                '({x: 0, y: 0, width: innerWidth, height: document.body.scrollHeight})'
            ), 'scale': 1}} if whole else {}
        ))  # fmt: skip
        path.write_bytes(base64.b64decode(found['data']))

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._to_browser)
        os.close(self._from_browser)
        self._profile.cleanup()

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self._buffer:
            ready, _, _ = select.select([self._from_browser], [], [], 180)
            data = os.read(self._from_browser, 2**20) if ready else b''
            assert data, 'the browser does not answer'
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)

    def _hear(self, event: dict[str, Any]) -> None:
        method, parameters = event.get('method'), event.get('params', {})
        if method == 'Runtime.exceptionThrown':
            self.complaints.append(json.dumps(parameters['exceptionDetails']))
        elif method == 'Runtime.consoleAPICalled' and parameters['type'] in ('error', 'warning'):
            self.complaints.append(json.dumps(parameters['args']))
        elif method == 'Log.entryAdded' and parameters['entry']['level'] in ('error', 'warning'):
            self.complaints.append(parameters['entry']['text'])
