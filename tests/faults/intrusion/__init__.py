"""Drills against attackers: hostile requests and poisoned labels."""
