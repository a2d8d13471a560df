"""Where two models disagree, and how much more than on the rows that measured them. Labels nothing and knows no queue."""
