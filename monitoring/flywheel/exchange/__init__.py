"""The queue in the formats of Label Studio and Argilla, and labels back from them. Knows no rule about labels."""
