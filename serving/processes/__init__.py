"""How our processes start, listen, restart and end with their parent. Knows none of the programs that it runs."""
