"""The ModelDeployment resource: its types, its rules, its conditions, and how a document becomes one."""
