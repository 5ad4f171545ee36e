#!/usr/bin/env python3
"""Makes calibration.txt, sensitivity.txt and evaluation.txt from documentation that Debian 12 ships: prose, manuals, code and Chinese.

    make_texts.py FOLDER        needs apt-get, dpkg-deb and Debian 12's package lists; downloads 11 MB

They have no source in common. Every package is pinned by version and SHA-256, so the texts are the same everywhere; so
are their own checksums, which this script checks last. Each text is put together from pieces that lie evenly over its
sources, in turn: any beginning of it is a mix of all of them.
"""
import gzip
import hashlib
import io
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

PIECE_CHARACTERS = 2000

# package, version, SHA-256 of the .deb
PACKAGES = {
    "debian-policy": ("4.6.2.0", "ef9d01b625c3b87c3a845c2cd1b66f1a16e9240b2b9e5bee53472a00e8457a39"),
    "developers-reference": ("12.18", "0dba82f6fa16e373f2a84ad07e7971aa9264ad2e7d2ae46b37edbc9c5fd57e2e"),
    "maint-guide-zh-cn": ("1.2.53", "d605b60a034f63857bc44205aed5ad7ba6e17d0d2b1ba5e79179b4e7ec4ee4bc"),
    "python3-docutils": ("0.19+dfsg-6", "ada9a80195375262c50dc0acf21a00a51166fee3fc96f6ca6d20a1a27868ba2c"),
    "debian-faq": ("11.1", "427426e0cfa6888622fc1d72631071cb4b5a1f86ccde722e7820bcef284de5d0"),
    "apt-doc": ("2.6.2", "7588436ff4bd6812cf1cea65de4fe64bf98d84c6b022714f8453e8a6e89079d9"),
    "debian-faq-zh-cn": ("11.1", "3545356b1aa04d87e91dd15e8406210cf5b4f476662e597897bcb42234591758"),
    "python3-mako": ("1.2.4+ds-1", "00b313e4a545b15d5c931210b664f3410daf7c47f2f9b6c1d44619565a412b7a"),
    "debian-reference-en": ("2.100", "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f"),
    "debian-reference-zh-cn": ("2.100", "6d2d8d9a646397e28b04cdff23d2e4374101ebf9be348e35961af62c8a2d0977"),
    "jargon-text": ("4.4.7-4.1", "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb"),
    "python3-pygments": ("2.14.0+dfsg-1", "405734a57b8d2722d10413c511d9b63ee78bbbdab8b2b689d7295260bc9618a2"),
}

# text: its size in characters, its SHA-256, and its sources (package, file)
TEXTS = {
    "calibration.txt": (
        480_000,
        "bc78f2ac508b9efcf4f9b34775a350bb357f20207fb6c749c76f409e4c328721",
        [
            ("debian-policy", "usr/share/doc/debian-policy/policy.txt.gz"),
            ("developers-reference", "usr/share/developers-reference/developers-reference.txt.gz"),
            ("maint-guide-zh-cn", "usr/share/doc/maint-guide-zh-cn/maint-guide.zh-cn.txt.gz"),
            ("python3-docutils", "usr/lib/python3/dist-packages/docutils/parsers/rst/states.py"),
        ],
    ),
    "sensitivity.txt": (
        48_000,
        "fec3954cc63649f03b785cf9cb42e1cfd043f5aecf5e046e02e30e13c49490e5",
        [
            ("debian-faq", "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz"),
            ("apt-doc", "usr/share/doc/apt-doc/guide.text.gz"),
            ("debian-faq-zh-cn", "usr/share/doc/debian/FAQ/debian-faq.zh-cn.txt.gz"),
            ("python3-mako", "usr/lib/python3/dist-packages/mako/codegen.py"),
        ],
    ),
    "evaluation.txt": (
        240_000,
        "2ceebb38c26f2083106f63a7a814ddcc8791583ddf9373923e0cc5a72b2a3674",
        [
            ("debian-reference-en", "usr/share/debian-reference/debian-reference.en.txt.gz"),
            ("jargon-text", "usr/share/doc/jargon-text/jargon.txt.gz"),
            ("debian-reference-zh-cn", "usr/share/debian-reference/debian-reference.zh-cn.txt.gz"),
            ("python3-pygments", "usr/lib/python3/dist-packages/pygments/lexer.py"),
        ],
    ),
}


def download(package, folder):
    version, checksum = PACKAGES[package]
    subprocess.run(["apt-get", "download", "-qq", f"{package}={version}"], cwd=folder, check=True,
                   stderr=subprocess.DEVNULL)
    [deb] = pathlib.Path(folder).glob(f"{package}_*.deb")
    found = hashlib.sha256(deb.read_bytes()).hexdigest()
    if found != checksum:
        sys.exit(f"{deb.name}: SHA-256 is {found}, not {checksum}")
    return deb


def read_member(deb, name):
    archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, stdout=subprocess.PIPE).stdout
    data = tarfile.open(fileobj=io.BytesIO(archive)).extractfile("./" + name).read()
    return (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8", "replace").replace("\r\n", "\n")


def pieces(text, n_characters):
    """Pieces of whole paragraphs, PIECE_CHARACTERS long or a little more, evenly over the text, n_characters in all."""
    text = text[len(text) // 12 :]  # titles, licences, tables of contents
    paragraphs = [p for p in re.split(r"\n\s*\n", text)[1:] if p.strip()]
    n_pieces = n_characters // PIECE_CHARACTERS
    begins, position = [], 0
    for i, paragraph in enumerate(paragraphs):
        if position >= len(begins) * len(text) / n_pieces and len(begins) < n_pieces:
            begins.append(i)
        position += len(paragraph) + 2
    result = []
    for k, begin in enumerate(begins):
        last = begins[k + 1] if k + 1 < len(begins) else len(paragraphs)
        piece = ""
        while begin < last and len(piece) < PIECE_CHARACTERS:
            piece += paragraphs[begin] + "\n\n"
            begin += 1
        result.append(piece)
    return result


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        debs = {package: download(package, folder) for package in PACKAGES}
        for name, (n_characters, checksum, sources) in TEXTS.items():
            columns = [pieces(read_member(debs[p], file), n_characters // len(sources)) for p, file in sources]
            rows = [c[i] for i in range(max(map(len, columns))) for c in columns if i < len(c)]
            data = "".join(rows).encode()
            (out / name).write_bytes(data)
            found = hashlib.sha256(data).hexdigest()
            print(f"{name}: {len(data)} bytes, SHA-256 {found}")
            if found != checksum:
                sys.exit(f"{name}: not the text that the figures in docs/quality.md are of (SHA-256 {checksum})")


main()
