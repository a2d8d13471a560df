"""The page Label: texts of the last round, one at a time or by cluster. Labels go to the gateway; knows no rule about them."""
