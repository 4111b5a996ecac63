# The demo's application: ready once it has imported what a small web service imports.
import importlib
import sys

for name in (
    "argparse asyncio base64 bisect calendar collections concurrent.futures configparser contextlib copy csv ctypes "
    "dataclasses datetime decimal email.message email.mime.multipart fractions functools gzip hashlib heapq hmac html "
    "http.client http.cookies http.server inspect ipaddress itertools json logging logging.handlers lzma mimetypes "
    "multiprocessing numbers operator pathlib pickle platform pprint queue random secrets select shutil signal socket "
    "socketserver sqlite3 ssl statistics string struct subprocess tempfile textwrap threading traceback typing "
    "unittest urllib.parse urllib.request uuid weakref xml.dom.minidom xml.etree.ElementTree zipfile zlib"
).split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # some builds leave out what needs a C library

if sys.argv[1:] == ["tell"]:
    import os
    import sysconfig

    print("name Python", sys.version.split()[0])
    print("program", os.path.realpath(sys.executable))
    for key in ("stdlib", "platstdlib"):
        print("library", sysconfig.get_paths()[key])
    for module in list(sys.modules.values()):
        for attribute in ("__file__", "__cached__"):
            path = getattr(module, attribute, None)
            if path and os.path.isfile(path):
                print("file", path)
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split(None, 5)
            if len(fields) == 6 and os.path.isfile(fields[5].strip()):
                print("file", fields[5].strip())
else:
    print("ready:", len(sys.modules), "modules")
