"""Texts as an attacker, a careless export or a terminal game would write them; used wherever text from outside is shown."""

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
HIDDEN_CODES = (0xAD, 0x61C, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF, 0xE0041)
INVISIBLE = [chr(code) for code in HIDDEN_CODES]
HOSTILE = (
    "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", "\x9b2J", "bell\x07",
    "a\bb", "a\rb",
    "first line\nerror: forged\n  what to do: rm -rf /", "tab\tbed", "vt\x0bff\x0c", "nul\0", "del\x7f", "nel\x85",
    "\u202egnp.exe", "\u2066isolated\u2069", "zero\u200bwidth", "line\u2028separator\u2029", "\ufeffbom", "tag\U000e0041",
    "[refund]", "[/track]", "[bold red]bold[/]", "[link=http://evil]x[/link]", "[", "]", "\\[x]", ":smile:",
    "{0}", "{name}", "%s%n",
    "$\\frac{1}{0}$", "$", "$$", "_x_^y^", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)",
    "<script>alert(1)</script>", "\"><img src=x>",
    "javascript:alert(1)", "$(id)", "`id`", "; rm -rf /", "../../etc/passwd", "'; DROP TABLE alerts; --", "-rf", "--help",
    "\ud83d", "\udcff", "x" * 100_000,
)  # fmt: skip
ORDINARY = (
    "where is my parcel?", "naïve café ½ €", "איפה החבילה שלי", "พัสดุของฉันอยู่ที่ไหน", "我的包裹在哪里", 
    "أين طردي", "می\u200cخواهم", "क्\u200dष",
    "👍", "👨\u200d👩\u200d👧", "🏳️\u200d🌈", "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "❤️", "1️⃣",
    "c++ and c#", "C:\\new", "−×→…“”",
)  # fmt: skip


def is_plain(text: str, allowed: str = "\n") -> bool:
    """Return True when a terminal obeys nothing in this text, and a reader sees all of it."""
    return not [character for character in CONTROLS + INVISIBLE if character in text and character not in allowed]
