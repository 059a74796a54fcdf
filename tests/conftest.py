"""What all tests share, and which take long: `make fast` leaves out the slow ones, `make test` modules of a minute."""

import os
import tempfile
from pathlib import Path

import ams_pod.engines.builtin  # noqa: F401  # transformers finds a usable torchvision, whichever test is run first
import hypothesis
import pytest

TESTS = Path(__file__).parent
# The API keys of whoever runs the tests must not close the servers under test.
os.environ["XDG_CONFIG_HOME"] = os.path.join(tempfile.gettempdir(), "ams-tests-without-configuration")
# A machine that is busy with something else for a fifth of a second is no counterexample.
hypothesis.settings.register_profile("without-deadline", deadline=None)
hypothesis.settings.load_profile("without-deadline")
# Modules of more than four seconds: they start clusters, hubs, model processes, or wait for what takes its time.
SLOW = {
    "test_all_engines/test_conformance.py",
    "test_all_engines/test_families.py",
    "test_all_engines/test_vllm_nodes.py",
    "test_chart/test_chart.py",
    "test_chart/test_release_live.py",
    "test_cli/test_controls.py",
    "test_cli/test_examples.py",
    "test_cli/test_fleet.py",
    "test_cli/test_import_hostile.py",
    "test_cli/test_processes.py",
    "test_cli/test_quickstart.py",
    "test_cli/test_top.py",
    "test_cli/test_up.py",
    "test_cluster/test_crashes.py",
    "test_cluster/test_journey.py",
    "test_cluster/test_keys.py",
    "test_cluster/test_page.py",
    "test_cluster/test_seen.py",
    "test_cluster/test_upgrade.py",
    "test_docs/test_pages.py",
    "test_fuzz/test_parsers.py",
    "test_gateway/test_bodies.py",
    "test_gateway/test_hostile_bodies.py",
    "test_gateway/test_hostile_pods.py",
    "test_gateway/test_keys.py",
    "test_gateway/test_limits_http.py",
    "test_gateway/test_limits_shared.py",
    "test_gateway/test_openapi.py",
    "test_gateway/test_overview.py",
    "test_gateway/test_processes.py",
    "test_gateway/test_redis_link.py",
    "test_gateway/test_responses_routes.py",
    "test_gateway/test_static_registry.py",
    "test_gateway/test_tls.py",
    "test_gateway/test_tokens.py",
    "test_gateway/test_usage_ledger.py",
    "test_gateway/test_usage_live.py",
    "test_gateway/test_usage_undelivered.py",
    "test_kube/test_client.py",
    "test_kube/test_key_secret.py",
    "test_kube/test_reflector.py",
    "test_media/test_images.py",
    "test_media/test_pdf.py",
    "test_media/test_video.py",
    "test_monitoring/test_alerts.py",
    "test_monitoring/test_dashboards.py",
    "test_monitoring/test_faults.py",
    "test_monitoring/test_pictures.py",
    "test_monitoring/test_vllm_boards.py",
    "test_operator/test_adapters.py",
    "test_operator/test_bad_resources.py",
    "test_operator/test_cluster_says.py",
    "test_operator/test_deadline.py",
    "test_operator/test_deep_resources.py",
    "test_operator/test_engine.py",
    "test_operator/test_first_key.py",
    "test_operator/test_follower.py",
    "test_operator/test_groups_live.py",
    "test_operator/test_kind_away.py",
    "test_operator/test_lifecycle.py",
    "test_operator/test_nodes_live.py",
    "test_operator/test_outage.py",
    "test_operator/test_preflight_live.py",
    "test_operator/test_pulling.py",
    "test_operator/test_renewal_live.py",
    "test_operator/test_scaling_live.py",
    "test_operator/test_serving_reports.py",
    "test_operator/test_strangers_live.py",
    "test_operator/test_why_live.py",
    "test_operator/test_why_not_ready.py",
    "test_page/test_accessible.py",
    "test_page/test_login.py",
    "test_page/test_playground.py",
    "test_page/test_proxy.py",
    "test_page/test_speed.py",
    "test_page/test_views.py",
    "test_pod/test_adapter_list.py",
    "test_pod/test_adapters.py",
    "test_pod/test_audio_lengths.py",
    "test_pod/test_authors_utilities.py",
    "test_pod/test_constraints.py",
    "test_pod/test_control_tokens.py",
    "test_pod/test_custom_embeddings.py",
    "test_pod/test_declared_tokenizer.py",
    "test_pod/test_download_conversion.py",
    "test_pod/test_download_engines.py",
    "test_pod/test_download_hostile.py",
    "test_pod/test_download_hub.py",
    "test_pod/test_download_patience.py",
    "test_pod/test_download_progress.py",
    "test_pod/test_download_resume.py",
    "test_pod/test_download_signature.py",
    "test_pod/test_download_sources.py",
    "test_pod/test_download_verify.py",
    "test_pod/test_download_xet.py",
    "test_pod/test_dynamic_adapters.py",
    "test_pod/test_engine.py",
    "test_pod/test_fair_engine.py",
    "test_pod/test_families_image_text.py",
    "test_pod/test_families_media.py",
    "test_pod/test_families_prompts.py",
    "test_pod/test_families_vqa.py",
    "test_pod/test_gguf_folder.py",
    "test_pod/test_gguf_foreign.py",
    "test_pod/test_gguf_settings.py",
    "test_pod/test_image_text_architectures.py",
    "test_pod/test_interruptible.py",
    "test_pod/test_kernels.py",
    "test_pod/test_ladder_engine.py",
    "test_pod/test_ladder_families.py",
    "test_pod/test_loading.py",
    "test_pod/test_log_format.py",
    "test_pod/test_media_check.py",
    "test_pod/test_occupancy.py",
    "test_pod/test_omni_layout.py",
    "test_pod/test_odd_answers.py",
    "test_pod/test_other_engine.py",
    "test_pod/test_prefix_cache.py",
    "test_pod/test_quantize.py",
    "test_pod/test_sampling.py",
    "test_pod/test_separate.py",
    "test_pod/test_speculation.py",
    "test_pod/test_torchvision_shim.py",
    "test_serve/test_adapters_live.py",
    "test_serve/test_admin_live.py",
    "test_serve/test_agents_live.py",
    "test_serve/test_answers_live.py",
    "test_serve/test_bad_input_live.py",
    "test_serve/test_clients.py",
    "test_serve/test_clients_other_apis.py",
    "test_serve/test_ending_live.py",
    "test_serve/test_evaluation.py",
    "test_serve/test_forkserver_live.py",
    "test_serve/test_golden.py",
    "test_serve/test_leaving_live.py",
    "test_serve/test_ledger_live.py",
    "test_serve/test_llama_server_embeddings_live.py",
    "test_serve/test_llama_server_live.py",
    "test_serve/test_media_http.py",
    "test_serve/test_media_live.py",
    "test_serve/test_older_server.py",
    "test_serve/test_openai_client_live.py",
    "test_serve/test_other_apis_live.py",
    "test_serve/test_pod_bodies.py",
    "test_serve/test_stall.py",
    "test_serve/test_streams_live.py",
    "test_serve/test_structured_live.py",
    "test_serve/test_traces.py",
    "test_serve/test_usage_live.py",
    "test_serve/test_why_faults.py",
}
# Modules of about a minute and more, each beside others on two cores; `make long` runs them.
LONG = {
    "test_all_engines/test_conformance.py",
    "test_all_engines/test_families.py",
    "test_chart/test_chart.py",
    "test_cli/test_examples.py",
    "test_monitoring/test_faults.py",
    "test_operator/test_groups_live.py",
    "test_pod/test_audio_lengths.py",
    "test_pod/test_authors_utilities.py",
    "test_pod/test_constraints.py",
    "test_pod/test_download_hub.py",
    "test_pod/test_download_sources.py",
    "test_pod/test_kept_tiles.py",
    "test_pod/test_ladder_engine.py",
    "test_pod/test_second_load.py",
    "test_serve/test_ledger_live.py",
    "test_serve/test_why_faults.py",
}


if missing := sorted(name for name in SLOW | LONG if not (TESTS / name).is_file()):
    raise pytest.UsageError(f"tests/conftest.py: SLOW or LONG names modules that are gone: {', '.join(missing)}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What quick runs leave out isn't imported either: that takes as long as a third of their tests."""
    if config.option.markexpr != "not slow" or not collection_path.is_relative_to(TESTS):
        return None
    return True if collection_path.relative_to(TESTS).as_posix() in SLOW | LONG else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.path.relative_to(TESTS).as_posix()
        if module in SLOW | LONG:
            item.add_marker(pytest.mark.slow)
        if module in LONG:
            item.add_marker(pytest.mark.long)
