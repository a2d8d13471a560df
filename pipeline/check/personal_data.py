"""Recognises what identifies a person in a text: addresses, telephone numbers, and numbers with a check digit.

A number counts only when its check digit fits, and a telephone number only when it is written as one, so that amounts, dates,
order numbers, versions and network addresses do not.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"  # of a Spanish identity number, by its remainder


class Kind(NamedTuple):
    """A kind of personal data: its name, how it is written, and whether a match is a real one."""

    name: str
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool]


def personal_data(text: str) -> list[str]:
    """Return the kinds of personal data that a text holds; no part of a text counts twice."""
    kinds = []
    for kind in KINDS:
        if matches := [match.group() for match in kind.pattern.finditer(text) if kind.is_real(match.group())]:
            kinds.append(kind.name)
            for match in matches:
                text = text.replace(match, " … ")
    return kinds


def _is_iban(match: str) -> bool:
    """Return whether the check digits of an account number fit (ISO 13616)."""
    number = re.sub(r"\W", "", match).upper()
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def _is_card(match: str) -> bool:
    """Return whether the last digit of a card number fits (Luhn), and not all digits are equal."""
    digits = [int(c) for c in match if c.isdigit()]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_dni(match: str) -> bool:
    number = match.upper().translate(str.maketrans("XYZ", "012", " -")) if match[0] in "XYZxyz" else match.upper()
    digits = re.sub(r"\D", "", number)
    return match[-1].upper() == DNI_LETTERS[int(digits) % 23]


def _is_telephone(match: str) -> bool:
    """Return whether no group is all zeros, as in a written-out amount."""
    return not re.search(r"(?<!\d)000(?!\d)", match)


def _is_mail(match: str) -> bool:
    """Return whether an address can be a person's: not of a domain for examples, nor of git over ssh."""
    return not re.search(r"@example\.(?:com|net|org)$|^git@|^no-?reply@", match, re.IGNORECASE)


KINDS = (
    Kind("e-mail address", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-zA-Z]{2,}"), _is_mail),
    Kind("account number (IBAN)", re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z\d]{4}){2,7}(?:[ -]?[A-Z\d]{1,3})?\b"), _is_iban),
    Kind("card number", re.compile(r"(?<![\w.-])[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{2,4}(?![\w-])"), _is_card),
    Kind("identity number", re.compile(r"\b(?:\d{8}|[XYZ]-?\d{7})[ -]?[A-HJ-NP-TV-Z]\b"), _is_dni),
    Kind(
        "telephone number",
        re.compile(
            r"""(?<![\w.+:/-]) (?<!\d[ ]) (?:
                (?:\+|00)[1-9]\d{0,2} (?:[ .()/-]{0,2}\d){7,12}        # international
              | \(\d{3}\)[ ]?\d{3}[ -]\d{4}                            # (555) 123-4567
              | [2-9]\d{2}([ -])\d{3}\1\d{3,4}                         # 612 345 678, 555-123-4567
              | [6-9]\d{2}([ -])\d{2}\2\d{2}\2\d{2}                    # 612 34 56 78
              | 0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,5}                       # 020 7946 0958
              | 0\d(?:[ .]\d{2}){4}                                    # 01 23 45 67 89
            ) (?![\w-]|[.:\ ]\d)""",
            re.VERBOSE,
        ),
        _is_telephone,
    ),
)
