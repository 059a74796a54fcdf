"""What executes the documentation notices when a page is wrong."""

from pathlib import Path

import pytest
from test_docs.blocks import Step, matches, read_page
from test_docs.shell import Shell, StepFailed

PAGE = """\
Text.

```console
$ echo one \\
    two
one two
$ cat <<END
> three
> END
three
```

<!-- skip: needs a moon -->
```console
$ fly
```

<!-- background: up -->
```console
$ serve
up
```

<!-- cluster -->
```console
$ kubectl
```

```yaml
no: command
```

<!-- run: python -->
```python
assert True
```
"""


def test_steps_are_commands_with_their_output() -> None:
    page = read_page(PAGE)
    assert page.skipped == ("needs a moon",)
    assert page.cluster_steps == (Step("kubectl"),)
    assert page.steps == (
        Step("echo one \\\n    two", "one two"),
        Step("cat <<END\nthree\nEND", "three"),
        Step("serve", "up", background="up"),
        Step("assert True\n", is_python=True),
    )


@pytest.mark.parametrize(
    ("shown", "printed", "good"),
    [
        ("", "anything", True),
        ("one", "one\n", True),
        ("one", "two\n", False),
        ("one", "one\ntwo\n", False),
        ("one...", "one and more\n", True),
        ("...\nlast", "first\nsecond\nlast\n", True),
        ("first\n...", "first\n", True),
        ("first\n...", "second\n", False),
        ('{"a":...,"b":1}', '{"a":[1,2],"b":1}', True),
        ('{"a":...,"b":1}', '{"a":[1,2],"b":2}', False),
        ("NAME  AGE", "NAME       AGE\n", True),
        ("NAME AGE", "NAME  AGE\n", False),
        ("a.c", "abc", False),
    ],
)
def test_output_is_compared(shown: str, printed: str, good: bool) -> None:
    assert matches(shown, printed) is good


def test_a_shell_keeps_keys_and_fails_for_what_a_page_does_not_show(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"PATH": "/usr/bin:/bin"}, lambda text: text.replace("PORT", "80"))
    shell.run(Step("KEY=$(echo 'two words')"))
    shell.run(Step('echo "$KEY" PORT', "two words PORT"))
    with pytest.raises(StepFailed, match="it printed\none"):
        shell.run(Step("echo one", "two"))
    with pytest.raises(StepFailed, match="status 3"):
        shell.run(Step("exit 3"))
    shell.run(Step("echo started; sleep 60", "started", background="started"))
    with pytest.raises(StepFailed):
        shell.run(Step("echo broken; exit 1", background="started"))
    shell.close()
