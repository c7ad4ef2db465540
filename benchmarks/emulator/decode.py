"""PTX of one kernel as a table of instructions for `core.cpp`.

An instruction that is not known raises `Unsupported`: nothing is guessed.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from .core import INSTRUCTION, library

COMPARE = {"and": 1, "or": 2, "xor": 3}
_AXES = [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
_MASKS = [f"%lanemask_{which}" for which in ("eq", "lt", "le", "gt", "ge")]
SPECIAL = {
    name: number for number, name in enumerate([*_AXES, "%laneid", "%warpid", *_MASKS, "%clock"])
}
_PARAM = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.([busf])(\d+)(?:\s+\.ptr.*?)?\s+(\w+)(?:\[(\d+)\])?\s*,?\s*$"
)
SHARED_BASE = 1024  # as on a GPU, where the first kilobyte is the system's


class Unsupported(Exception):
    """PTX that the emulator does not know."""


def _match(match: re.Match[str] | None) -> re.Match[str]:
    """A match that has to be there."""
    if match is None:
        raise Unsupported("a form that is not known")
    return match


class Program:
    """Decoded PTX of one kernel."""

    def __init__(self, ptx: str):
        self.ptx = ptx
        self.files: dict[int, str] = {}
        self.registers: dict[str, tuple[int, int]] = {}  # name: offset, width (0: predicate)
        self.size = 64 * 4  # of the register file; first a sink for `_`
        self.constants: dict[tuple[int, int], int] = {}
        self.params: list[tuple[str, int, int]] = []  # name, offset, size
        self.local, self.local_size = "", 0
        self.where: list[tuple[str, int]] = []  # source file and line of each instruction
        self.text: list[str] = []
        self._parse(ptx)

    # -- text to instructions
    def _parse(self, ptx: str) -> None:
        ptx = re.sub(r"/\*.*?\*/", "", ptx, flags=re.S)
        entry = _match(re.search(r"\.entry\s+(\S+?)\s*\((.*?)\)(.*?)\n\{", ptx, re.S))
        self.name = entry[1]
        if len(re.findall(r"\.entry\b", ptx)) > 1 or re.search(r"^\s*\.func\b", ptx, re.M):
            raise Unsupported("several functions")
        at = 0
        for line in entry[2].split("\n"):
            if not line.strip():
                continue
            p = _match(_PARAM.search(line))
            size = int(p[3]) // 8
            align, total = int(p[1] or size), size * int(p[5] or 1)
            at = -(-at // align) * align
            self.params.append((p[4], at, total))
            at += total
        self.param_size = at
        threads = _match(re.search(r"\.(?:req|max)ntid\s+(\d+)", entry[3]))
        self.threads = int(threads[1])
        for n, name in re.findall(r'\.file\s+(\d+)\s+"(.*?)"', ptx):
            self.files[int(n)] = name
        body = ptx[entry.end() :]
        labels: dict[str, int] = {}
        place = ("", 0)  # file and line
        statements: list[tuple[str, tuple[str, int]]] = []
        depth = 1
        buffer = ""
        for line in body.split("\n"):
            line = line.split("//")[0].strip()
            if not line:
                continue
            if not buffer:
                loc = re.match(r"\.loc\s+(\d+)\s+(\d+)", line)
                if loc:
                    place = (self.files.get(int(loc[1]), ""), int(loc[2]))
                    continue
                if line == "}":
                    depth -= 1
                    if depth == 0:
                        break
                    continue
                if line == "{":
                    depth += 1
                    continue
                label = re.match(r"([$\w]+):$", line)
                if label:
                    labels[label[1]] = len(statements)
                    continue
            buffer += " " + line
            while ";" in buffer:
                statement, buffer = buffer.split(";", 1)
                statement = statement.strip()
                if statement.startswith("{"):  # inline assembly with a scope of its own
                    statement = statement[1:].strip()
                    depth += 1
                buffer = buffer.strip()
                if buffer == "}":
                    buffer = ""
                    depth -= 1
                depot = re.match(r"\.local\s+\.align\s+\d+\s+\.b8\s+(\w+)\[(\d+)\]", statement)
                if depot:  # the stack: from address 0 of each thread's own memory
                    self.local, self.local_size = depot[1], int(depot[2])
                elif statement.startswith(".reg"):
                    self._declare(statement)
                elif statement.startswith("."):
                    if not statement.startswith((".pragma", ".loc")):
                        raise Unsupported(statement)
                elif statement:
                    statements.append((statement, place))
        code = np.zeros(len(statements), INSTRUCTION)
        code["pred"] = -1
        self._fix: list[tuple[int, str, int, tuple[int, int]]] = []
        for k, (statement, place) in enumerate(statements):
            try:
                self._decode(code[k], statement, labels)
            except Unsupported:
                raise
            except Exception as e:
                raise Unsupported(f"{statement!r}: {e!r}") from e
            self.where.append(place)
            self.text.append(statement)
        # constants come after the registers
        self.size = -(-self.size // 64) * 64
        self.const_off = self.size
        offset = {}
        for width, value in self.constants:
            offset[width, value] = self.size
            self.size += 64 if width == 0 else 32 * width
        init = np.zeros(self.size, np.uint8)
        for (width, value), off in offset.items():
            if width == 0:
                init[off : off + 4] = np.frombuffer(struct.pack("<I", value), np.uint8)
            else:
                init[off : off + 32 * width] = np.tile(
                    np.frombuffer(value.to_bytes(width, "little"), np.uint8), 32
                )
        for k, slot, index, key in self._fix:
            code[k][slot][index] = offset[key]
        self.init, self.code = init, code

    def _declare(self, statement: str) -> None:
        kind, rest = _match(re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement)).groups()
        width = 0 if kind == "pred" else int(re.sub(r"\D", "", kind)) // 8
        if width not in (0, 2, 4, 8):
            width = 2 if width == 1 else width
        for name in rest.split(","):
            name = name.strip()
            many = re.match(r"(%\w+)<(\d+)>", name)
            for one in [f"{many[1]}{j}" for j in range(int(many[2]))] if many else [name]:
                self.registers[one] = (self.size, width)
                self.size += 64 if width == 0 else 32 * width

    def _constant(self, ins, slot: str, index: int, width: int, value: int | None) -> None:
        if value is None:
            raise Unsupported(self._now)
        key = (width, value & (0xFFFFFFFF if width == 0 else (1 << 8 * width) - 1))
        self.constants.setdefault(key, 0)
        self._fix.append((self._k, slot, index, key))

    def _number(self, token: str) -> int | None:
        if m := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", token):
            return int(m[1], 16)
        if m := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", token):
            return int(m[1], 16)
        if m := re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]+|\d+)U?", token):
            return int(m[1] + m[2], 0)
        if token == self.local:
            return 0
        if m := re.fullmatch(r"(global_smem)(?:\s*\+\s*(\d+))?", token):
            return SHARED_BASE + int(m[2] or 0)
        return None

    def _operand(self, ins, slot: str, index: int, token: str, width: int | None) -> int:
        """Place an operand; its width. `width`: what the type says, None where any will do."""
        token = token.strip()
        if token == "_":
            ins[slot][index] = 0
            return width or 8
        negate = token.startswith("!")
        if token.lstrip("!") in self.registers:
            off, own = self.registers[token.lstrip("!")]
            if width is not None and own != width:
                raise Unsupported(f"{token} has {own} bytes, not {width}: {self._now}")
            ins[slot][index] = off
            if negate:
                ins["flags"] |= 4
            return own
        number = self._number(token)
        if number is None:
            raise Unsupported(f"operand {token!r}: {self._now}")
        self._constant(ins, slot, index, width if width is not None else 8, number)
        return width if width is not None else 8

    @staticmethod
    def _split(text: str) -> list[str]:
        parts, depth, now = [], 0, ""
        for c in text:
            depth += (c in "{[(") - (c in "}])")
            if c == "," and depth == 0:
                parts.append(now.strip())
                now = ""
            else:
                now += c
        return [*parts, now.strip()] if now.strip() else parts

    def _address(self, ins, slot: str, token: str) -> None:
        inner = token.strip()[1:-1].strip()
        m = _match(re.fullmatch(r"(\S+?)\s*(?:\+\s*(-?\d+|0x[0-9a-fA-F]+))?", inner))
        base, offset = m[1], int(m[2] or "0", 0)
        width = "sw" if slot == "s" else "dw"
        if base in self.registers:
            off, own = self.registers[base]
            ins[slot][0], ins[width] = off, own
        else:
            self._constant(ins, slot, 0, 8, self._number(base))
            ins[width] = 8
        ins["imm"] = offset

    def _vector(self, token: str) -> list[str]:
        return self._split(token.strip()[1:-1]) if token.strip().startswith("{") else [token]

    def _op(self, ins, name: str) -> bool:
        op = library().emu_op(name.encode())
        if op >= 0:
            ins["op"] = op
        return op >= 0

    def _decode(self, ins, statement: str, labels: dict[str, int]) -> None:
        self._now = statement
        self._k = len(self.text)
        guard = re.match(r"@(!?)(%\w+)\s+", statement)
        if guard:
            ins["pred"], ins["pneg"] = self.registers[guard[2]][0], guard[1] == "!"
            statement = statement[guard.end() :]
        name, rest = (
            x.strip() for x in _match(re.match(r"(\S+)\s*(.*)", statement, re.S)).groups()
        )
        args = self._split(rest)
        parts = name.split(".")
        head = parts[0]
        if head == "bra":
            self._op(ins, "bra")
            ins["tgt"] = labels[args[0]]
        elif head in ("ret", "exit"):
            self._op(ins, "exit")
        elif name in (
            "bar.sync",
            "barrier.sync",
            "barrier.sync.aligned",
            "barrier.cta.sync.aligned",
        ):
            if args != ["0"] and not (
                len(args) == 2 and args[0] == "0" and args[1] == str(self.threads)
            ):
                raise Unsupported(statement)
            self._op(ins, "bar.sync")
        elif head == "bar" and parts[1] == "warp":
            self._op(ins, "bar.warp.sync")
            self._operand(ins, "s", 3, args[0], 4)
        elif head in (
            "membar",
            "fence",
            "griddepcontrol",
            "prefetch",
            "discard",
            "nanosleep",
            "setmaxnreg",
            "pmevent",
        ):
            self._op(ins, "nop")
        elif head == "trap":
            self._op(ins, "trap")
        elif head == "createpolicy":
            self._op(ins, "mov.b64")
            self._operand(ins, "d", 0, args[0], 8)
            self._operand(ins, "s", 0, "0", 8)
        elif head == "cvta" and parts[1] == "local":  # no generic address of local memory is taken
            self._op(ins, "mov.b64")
            self._operand(ins, "d", 0, args[0], 8)
            self._operand(ins, "s", 0, args[1], 8)
        elif head in ("ld", "st", "ldu"):
            self._memory(ins, parts, args)
        elif head in ("ldmatrix", "stmatrix"):
            count = next(int(p[1:]) for p in parts if re.fullmatch(r"x\d", p))
            if "m8n8" not in parts or parts[-1] != "b16":
                raise Unsupported(statement)
            self._op(ins, head + (".trans" if "trans" in parts else ""))
            address, vector = (args[1], args[0]) if head == "ldmatrix" else (args[0], args[1])
            self._address(ins, "s" if head == "ldmatrix" else "d", address)
            for j, token in enumerate(self._vector(vector)):
                self._operand(ins, "d" if head == "ldmatrix" else "s", j, token, 4)
            ins["n"], ins["flags"] = count, 2
        elif head == "atom" or head == "red":
            keep = [
                p
                for p in parts[1:]
                if p
                not in ("relaxed", "acq_rel", "acquire", "release", "gpu", "cta", "sys", "noftz")
            ]
            if keep[0] not in ("global", "shared"):
                raise Unsupported(statement)
            if not self._op(ins, ".".join(["atom", *keep])):
                raise Unsupported(statement)
            width = int(library().emu_sig(int(ins["op"])).decode()[0])
            if head == "red":
                args = ["_", *args]
            self._operand(ins, "d", 0, args[0], width)
            self._address(ins, "s", args[1])
            for j, token in enumerate(args[2:]):
                self._operand(ins, "s", j + 1, token, width)
        elif head == "mov" and args[1] in SPECIAL:
            self._op(ins, "special")
            ins["imm"] = SPECIAL[args[1]]
            ins["dw"] = self._operand(ins, "d", 0, args[0], None)
        elif head == "mov" and (args[0].startswith("{") or args[1].startswith("{")):
            pack = args[1].startswith("{")
            self._op(ins, "pack" if pack else "unpack")
            several = self._vector(args[1] if pack else args[0])
            total = int(parts[1][1:]) // 8
            each = total // len(several)
            ins["n"], ins["es"] = len(several), each
            for j, token in enumerate(several):
                self._operand(ins, "s" if pack else "d", j, token, each)
            self._operand(ins, *(("d", 0, args[0]) if pack else ("s", 0, args[1])), total)
            ins["dw"], ins["sw"] = (total, each) if pack else (each, total)
        elif head in ("shfl", "redux", "vote", "elect"):
            if not self._op(ins, name):
                raise Unsupported(statement)
            out = [x.strip() for x in args[0].split("|")]
            if len(out) == 2:
                self._operand(ins, "d", 1, out[1], 0)
                ins["flags"] = 1
            self._operand(ins, "d", 0, out[0], 0 if name.endswith("pred") else 4)
            sources = args[1:-1]
            for j, token in enumerate(sources):
                self._operand(ins, "s", j, token, 0 if head == "vote" else 4)
            self._operand(ins, "s", 3, args[-1], 4)
            if int(ins["flags"]) & 4:
                raise Unsupported(statement)
        elif head == "cvt":
            fast = name in ("cvt.u64.u32", "cvt.s64.s32", "cvt.u32.u64")
            if fast:
                widths = [self.registers[a][1] if a in self.registers else 0 for a in args]
                name += (
                    ""
                    if widths == [4 if name[5:7] == "32" else 8, 8 if name.endswith("64") else 4]
                    else "*"
                )
            if not self._op(ins, name):
                raise Unsupported(statement)
            sig = library().emu_sig(int(ins["op"])).decode()
            if sig == "cc":
                ins["dw"] = self._operand(ins, "d", 0, args[0], None)
                ins["sw"] = self._operand(ins, "s", 0, args[1], None)
                ins["flags"] = "sat" in parts
            else:
                for j, token in enumerate(args):
                    self._operand(ins, "d" if j == 0 else "s", max(0, j - 1), token, int(sig[j]))
        elif head == "setp" and parts[2] in COMPARE:
            if not self._op(ins, ".".join([*parts[:2], *parts[3:]])):
                raise Unsupported(statement)
            width = int(library().emu_sig(int(ins["op"])).decode()[1])
            self._operand(ins, "d", 0, args[0], 0)
            self._operand(ins, "s", 0, args[1], width)
            self._operand(ins, "s", 1, args[2], width)
            self._operand(ins, "s", 2, args[3], 0)
            ins["flags"] |= COMPARE[parts[2]]
        else:
            if not self._op(ins, name):
                raise Unsupported(statement)
            sig = library().emu_sig(int(ins["op"])).decode()
            if len(sig) != len(args):
                raise Unsupported(statement)
            for j, token in enumerate(args):
                self._operand(
                    ins,
                    "d" if j == 0 else "s",
                    max(0, j - 1),
                    token,
                    0 if sig[j] == "p" else int(sig[j]),
                )
            if int(ins["flags"]) & 4:
                raise Unsupported(statement)

    def _memory(self, ins, parts: list[str], args: list[str]) -> None:
        head = "ld" if parts[0] == "ldu" else parts[0]
        named = (part.split("::")[0] for part in parts)
        space = next((n for n in named if n in ("global", "shared", "param", "local")), "generic")
        if not self._op(ins, f"{head}.{space}"):
            raise Unsupported(self._now)
        kind, bits = _match(re.fullmatch(r"([busf])(\d+)", parts[-1])).groups()
        ins["es"], ins["sx"] = int(bits) // 8, kind == "s"
        vector, address = (args[0], args[1]) if head == "ld" else (args[1], args[0])
        names = self._vector(vector)
        ins["n"] = len(names)
        slot, width = ("d", "dw") if head == "ld" else ("s", "sw")
        if len(names) > 4:
            raise Unsupported(self._now)
        for j, token in enumerate(names):
            if token in self.registers or token == "_":
                ins[width] = self._operand(ins, slot, j, token, None)
            else:
                ins[width] = 8
                self._operand(ins, slot, j, token, 8)
        if head == "st" and any(t not in self.registers for t in names) and len(names) > 1:
            widths = {self.registers[t][1] for t in names if t in self.registers} or {8}
            if len(widths) > 1:
                raise Unsupported(self._now)
            ins[width] = widths.pop()
            for j, token in enumerate(names):
                if token not in self.registers:
                    self._fix = [f for f in self._fix if f[:3] != (self._k, "s", j)]
                    self._constant(ins, "s", j, int(ins[width]), self._number(token))
        if space == "param":
            m = _match(re.fullmatch(r"\[\s*(\w+)\s*(?:\+\s*(\d+))?\s*\]", address))
            ins["imm"] = next(o for n, o, _ in self.params if n == m[1]) + int(m[2] or 0)
        else:
            self._address(ins, "s" if head == "ld" else "d", address)
