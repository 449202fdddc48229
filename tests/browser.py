"A headless browser for the tests, and pages that write down what goes wrong on them"

from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from set_up_browser import AXE, find_browser  # noqa: F401, for the tests

ROOT = Path(__file__).resolve().parents[1]

# no host but this machine can be found, so that a page that needs the network shows it
FLAGS = [
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--force-color-profile=srgb',
]
HERE = 'localhost', '127.0.0.1'


def watch(page):
    """Keep in `page.faults` what the browser complains of: errors on the console and in scripts,
    requests that fail or go elsewhere
    """
    page.faults = []

    def note(what):
        page.faults.append(what)

    def asked(request):
        if (
            not request.url.startswith(('data:', 'blob:'))
            and urlsplit(request.url).hostname not in HERE
        ):
            note(f'asks for {request.url}')

    def answered(response):
        if response.status >= 400 and not response.url.endswith('/favicon.ico'):
            note(f'{response.status} for {response.url}')

    page.on(
        'console',
        lambda m: m.type == 'error' and note(f'console: {m.text} ({m.location.get("url", "")})'),
    )
    page.on('pageerror', lambda e: note(f'script: {e}'))
    page.on('request', asked)
    page.on('response', answered)
    # a page that is left ends its own requests
    page.on(
        'requestfailed',
        lambda r: r.failure != 'net::ERR_ABORTED' and note(f'{r.failure} for {r.url}'),
    )
    return page


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder under /clef_nb/, as on GitHub's pages, so that a link from the root of the
    host is a broken one
    """

    protocol_version = 'HTTP/1.1'

    def translate_path(self, path):
        inside = path.removeprefix('/clef_nb')
        return super().translate_path(
            inside if inside != path and inside[:1] == '/' else '/not/there'
        )

    def log_message(self, *args):
        pass


@contextmanager
def serve(folder):
    "The address of a folder on a free port"

    class Server(ThreadingHTTPServer):
        # a browser that leaves hangs up
        def handle_error(self, request, address):
            pass

    with Server(('127.0.0.1', 0), partial(Handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f'http://localhost:{server.server_port}/clef_nb/'
        finally:
            server.shutdown()
