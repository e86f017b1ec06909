"""What a prompt asks for, piece by piece: read, checked and named one by one."""
