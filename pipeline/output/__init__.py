"""What people and logs read: text from outside made plain, terminals, logs. Knows no stage and no service."""
