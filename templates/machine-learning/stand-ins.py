"""Makes torch of PyPI usable where there is no graphics processor.

Its wheels are linked to NVIDIA's libraries, 2.6 GiB to download, and import
fails without them. Of these only the CUDA runtime is installed: torch asks it
whether there is such a processor, and with the answer no it calls none of the
others. For them this writes libraries with the same names and functions, which
all fail. What torch says that it requires is what is there then, so that pip
does not bring the rest with the next package that builds on torch.
"""

import base64
import csv
import hashlib
import pathlib
import platform
import re
import subprocess
import sysconfig
import tempfile

site = pathlib.Path(sysconfig.get_path("purelib"))
torch, nvidia = site / "torch/lib", site / "nvidia/cu13/lib"

# What is loaded only once there is a processor for it.
LATER = {"libcaffe2_nvrtc.so", "libtorch_cuda_linalg.so"}
# Libraries whose functions have no version that names their library.
PREFIXES = {"nccl": "libnccl", "cuFile": "libcufile", "cusparseLt": "libcusparseLt"}
# "return 1", which means failure to all of them, and "return text".
CODE = {"x86_64": ("mov $1, %eax", "lea text(%rip), %rax"), "aarch64": ("mov w0, #1", "adr x0, text")}
TEXTS = re.compile(r"(GetErrorString|GetLastErrorString|GetLastError|GetErrorName)$")


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing():
    """The functions that are called, with their versions, by library."""
    loaded = [f for f in sorted(torch.glob("*.so*")) if f.name not in LATER]
    there = {f.name for folder in (torch, nvidia) for f in folder.iterdir()}
    libraries, library = {}, {}
    for f in loaded:
        for name in re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv|nccl)[^\]]*)\]", said("readelf", "-dW", f)):
            if name not in there:
                libraries[name] = set()
        for name, version in re.findall(r"File: (\S+)|Name: (\S+)", said("readelf", "-VW", f)):
            current = name or current
            if version:
                library[version] = current
    for f in loaded:
        for function, version in re.findall(r" U (\w+)(?:@+(\S+))?", said("nm", "-D", "--undefined-only", f)):
            if version:
                names = [library.get(version)]
            else:
                prefixes = [p for start, p in PREFIXES.items() if function.startswith(start)]
                names = [n for n in libraries if n.split(".so")[0] in prefixes]
            for name in names:
                if name in libraries:
                    libraries[name].add((function, version))
    return libraries


def write(name, functions):
    fails, tells = CODE[platform.machine()]
    lines = [".text", "fails:", fails, "ret", "tells:", tells, "ret", 'text: .asciz "there is no graphics processor"']
    versions = {}
    for function, version in sorted(functions):
        does = "tells" if TEXTS.search(function) else "fails"
        lines += [f".globl {function}", f".type {function}, %function", f".set {function}, {does}"]
        versions.setdefault(version, []).append(function)
    lines.append('.section .note.GNU-stack, "", %progbits')
    with tempfile.TemporaryDirectory() as folder:
        source, script, made = (pathlib.Path(folder, n) for n in ("a.s", "versions", "a.o"))
        source.write_text("\n".join(lines) + "\n")
        script.write_text("".join(f"{v} {{ global: {'; '.join(fs)}; }};\n" for v, fs in versions.items()))
        subprocess.run(["as", "-o", made, source], check=True)
        subprocess.run(["ld", "-shared", "-soname", name, "--version-script", script, "-o", nvidia / name, made], check=True)


def require_what_is_there():
    (info,) = site.glob("torch-*.dist-info")
    metadata, record = info / "METADATA", info / "RECORD"
    text = re.sub(r"^Requires-Dist: (cuda-|nvidia-|triton).*\n", "", metadata.read_text(), flags=re.M)
    metadata.write_text(text)
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    with record.open(newline="") as f:
        rows = list(csv.reader(f))
    for row in rows:
        if row[0] == f"{info.name}/METADATA":
            row[1:] = ["sha256=" + digest, len(text.encode())]
    with record.open("w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows(rows)


for name, functions in sorted(missing().items()):
    write(name, functions)
    print(name, len(functions))
require_what_is_there()
